"""Registry, mailboxes and claims against models: whatever is done in whatever order, nothing is lost, doubled or invented."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import forge
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from mnemo_coord import Fleet, Settings, errors
from mnemo_coord.disk import records
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.events import EventKind
from mnemo_coord.holdings.claims import Claim, ClaimKind
from mnemo_coord.members.registration import Registration
from mnemo_coord.messages.address import Address
from mnemo_coord.messages.message import decode

KEY = Signer(b"k" * 32)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6).filter(lambda key: key != "signature"), JSON, min_size=1, max_size=5))
def test_json_values_come_back_as_they_were(body: dict[str, Any]) -> None:
    try:
        records.encodable(body)
    except errors.NotEncodable:
        assert any(0xD800 <= ord(character) <= 0xDFFF for character in json.dumps(body, ensure_ascii=False))
        return
    sealed = records.seal(body, KEY, Purpose.MESSAGE)
    again = records.unseal(sealed, KEY, Purpose.MESSAGE, "x")
    assert again == body
    assert json.dumps(again) == json.dumps(body), "types and order too"
    assert records.reseal(json.loads(sealed)) == sealed or any(isinstance(value, float) for value in walk(body))


def walk(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [inner for member in value.values() for inner in walk(member)]
    if isinstance(value, list):
        return [inner for member in value for inner in walk(member)]
    return [value]


@given(
    st.binary(max_size=1100) | st.text(max_size=200).map(lambda text: json.dumps({"id": text, "signature": "0" * 64}).encode())
)
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    try:
        decode(data, KEY, "x")
    except errors.State:
        return
    raise AssertionError("nobody signed this")


class Mailboxes(RuleBasedStateMachine):
    """Two senders, three receivers, one shared mailbox; receivers vanish, raise and acknowledge."""

    messages = Bundle("messages")

    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="mnemo-model-"))
        self.fleet = Fleet.open(self.place / "s", settings=Settings(max_deliveries=3))
        self.address = Address("@worker")
        self.accepted: dict[str, int] = {}
        self.done: set[str] = set()
        self.held: dict[str, Any] = {}
        self.first: dict[str, list[int]] = {"one-1": [], "two-2": []}
        self.count = 0

    @rule(sender=st.sampled_from(["one-1", "two-2"]))
    def send(self, sender: str) -> None:
        self.count += 1
        receipt = self.fleet.send("@worker", "T", {"from": sender, "n": self.count}, sender=sender)
        assert receipt.waiting == ("@worker",)
        self.accepted[receipt.id] = self.count

    @rule(claimer=st.sampled_from(["aaaaaaaa", "bbbbbbbb", "cccccccc"]))
    def take_one(self, claimer: str) -> None:
        delivery = next(iter(self.fleet.queue.receive([self.address], claimer)), None)
        if delivery is None:
            return
        assert delivery.message.id in self.accepted
        assert delivery.message.id not in self.held, "never two at once"
        assert delivery.message.id not in self.done, "never again after it was acknowledged"
        if delivery.delivery == 1:
            order = self.first[delivery.message.from_agent]
            assert not order or delivery.message.payload["n"] > order[-1]
            order.append(delivery.message.payload["n"])
        self.held[delivery.message.id] = delivery

    @precondition(lambda self: self.held)
    @rule(data=st.data(), handled=st.booleans())
    def settle(self, data: st.DataObject, handled: bool) -> None:
        message_id = data.draw(st.sampled_from(sorted(self.held)))
        delivery = self.held.pop(message_id)
        delivery.acknowledge() if handled else delivery.give_back()
        if handled:
            self.done.add(message_id)

    @rule(claimer=st.sampled_from(["aaaaaaaa", "bbbbbbbb", "cccccccc"]))
    def vanish(self, claimer: str) -> None:
        self.fleet.queue.release_of(claimer)
        for message_id in [key for key, delivery in self.held.items() if delivery.claimer == claimer]:
            del self.held[message_id]

    @rule(content=st.binary(max_size=40), name=st.sampled_from(["x.json", "0.json", "zz~9.json"]))
    def litter(self, content: bytes, name: str) -> None:
        path = self.place / "s" / "coordination_queue" / self.address.folder / "new"
        if path.exists():
            (path / name).write_bytes(b"x" + content)

    @invariant()
    def every_message_is_in_one_place(self) -> None:
        if not hasattr(self, "place"):
            return
        root = self.place / "s" / "coordination_queue"
        places = [root / self.address.folder / "new", root / self.address.folder / "claimed", root / "dead_letter"]
        found: list[str] = []
        for folder in places:
            for path in folder.glob("*.json") if folder.exists() else ():
                content = path.read_bytes()
                if content.startswith(b'{"id"'):
                    found.append(json.loads(content)["id"])
        assert len(found) == len(set(found))
        assert set(found) == set(self.accepted) - self.done

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.fleet.close()
            shutil.rmtree(self.place)


class Registries(RuleBasedStateMachine):
    """Entries come and go while the file is deleted, damaged, reformatted and forged."""

    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="mnemo-model-"))
        self.path = self.place / "s"
        self.fleet = Fleet.open(self.path)
        self.file = self.path / "process_registry.json"
        self.present: dict[str, Registration] = {}
        self.forged: set[str] = set()

    @rule(number=st.integers(0, 5), port=st.none() | st.integers(1, 65535))
    def put(self, number: int, port: int | None) -> None:
        instance_id = f"{number:08x}"
        registration = Registration.from_body(forge.body(instance_id, api_port=port, seq=len(self.present)))
        folder = self.fleet.state.folder("instances")
        fd = os.open(f"{instance_id}.lock", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=folder)
        os.write(fd, self.fleet.registry.seal(registration))
        os.close(fd)
        self.fleet.registry.put(registration, EventKind.INSTANCE_REGISTERED)
        self.present[instance_id] = registration
        self.forged.discard(instance_id)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        instance_id = data.draw(st.sampled_from(sorted(self.present)))
        self.fleet.registry.remove(self.present.pop(instance_id), EventKind.INSTANCE_LEFT)
        os.unlink(f"{instance_id}.lock", dir_fd=self.fleet.state.folder("instances"))

    @rule(content=st.sampled_from([b"", b"[]", b"{", b"\0" * 64, b'{"version":9,"instances":{}}']))
    def damage(self, content: bytes) -> None:
        if self.file.exists():
            self.file.write_bytes(content)
            self.forged.clear()

    @rule()
    def lose(self) -> None:
        self.file.unlink(missing_ok=True)
        self.forged.clear()

    @rule(indent=st.none() | st.integers(0, 4))
    def reformat(self, indent: int | None) -> None:
        if self.sound():
            self.file.write_text(json.dumps(json.loads(self.file.read_text()), indent=indent))

    @rule(number=st.integers(6, 9), signature=st.none() | st.integers() | st.text(max_size=70))
    def forge(self, number: int, signature: Any) -> None:
        if self.sound():
            instance_id = f"{number:08x}"
            forge.add(self.path, instance_id, {**forge.body(instance_id), "signature": signature})
            self.forged.add(instance_id)

    def sound(self) -> bool:
        try:
            return json.loads(self.file.read_text())["version"] == 1
        except (OSError, ValueError, TypeError, KeyError):
            return False

    @rule()
    def rebuild(self) -> None:
        self.fleet.registry.rebuild()
        assert self.sound()

    @invariant()
    def what_is_read_is_what_is_there(self) -> None:
        if not hasattr(self, "place"):
            return
        entries = self.fleet.registry.read()
        assert {key: entry.registration for key, entry in entries.items() if entry.registration} == self.present
        assert {key for key, entry in entries.items() if entry.registration is None} == self.forged

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.fleet.close()
            shutil.rmtree(self.place)


class ClaimTables(RuleBasedStateMachine):
    """Several who claim the same few things, and a record or two that somebody deletes."""

    claims = Bundle("claims")

    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="mnemo-model-"))
        self.fleets = [Fleet.open(self.place / "s") for _ in range(3)]
        self.holder: dict[str, int] = {}
        self.epoch: dict[str, int] = {}

    @rule(target=claims, who=st.integers(0, 2), name=st.sampled_from(["lamp", "../etc", "Ünï"]))
    def take(self, who: int, name: str) -> tuple[str, Claim | None]:
        try:
            claim = self.fleets[who].claims.take(ClaimKind.SINGLETON, name, f"{who}" * 8)
        except errors.Conflict as conflict:
            assert name in self.holder
            assert conflict.holder in {f"{self.holder[name]}" * 8, None}
            return name, None
        assert name not in self.holder
        assert claim.epoch > self.epoch.get(name, 0)
        self.holder[name], self.epoch[name] = who, claim.epoch
        return name, claim

    @rule(held=consumes(claims))
    def release(self, held: tuple[str, Claim | None]) -> None:
        name, claim = held
        if claim is not None and claim.active:
            assert claim.is_held()
            claim.release()
            claim.release()
            del self.holder[name]

    @rule()
    def lose_the_records(self) -> None:
        for path in (self.place / "s" / "claims").glob("*.json"):
            path.unlink()

    @rule(who=st.integers(0, 2))
    def release_of_somebody(self, who: int) -> None:
        """What the reaper does for a dead one removes no record of a claim that is held."""
        before = {holder.claim for _, holder in self.fleets[0].claims.held()}
        self.fleets[who].claims.release_of(f"{who}" * 8)
        assert {holder.claim for _, holder in self.fleets[0].claims.held()} == before

    @invariant()
    def epochs_never_fall(self) -> None:
        if hasattr(self, "place"):
            for name, epoch in self.epoch.items():
                assert self.fleets[0].claims.epoch(ClaimKind.SINGLETON, name) == epoch

    def teardown(self) -> None:
        if hasattr(self, "place"):
            for fleet in self.fleets:
                fleet.close()
            shutil.rmtree(self.place)


TestMailboxes = Mailboxes.TestCase
TestRegistries = Registries.TestCase
TestClaimTables = ClaimTables.TestCase
