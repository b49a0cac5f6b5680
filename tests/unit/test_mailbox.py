"""An address and its folder name each other, a delivery is counted in its file's name, and a mailbox moves messages whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.messages import set_aside
from mnemo_coord.messages.address import Address, boxes
from mnemo_coord.messages.file_name import delivery_of, next_delivery
from mnemo_coord.messages.mailbox import Mailbox

ME = "a1b2c3d4"


def hexed(kind: str, text: str) -> str:
    return f"{kind}-{text.encode().hex()}"


# Addresses


@pytest.mark.parametrize(
    ("text", "folder", "is_id"),
    [
        ("a1b2c3d4", "a1b2c3d4", True),
        ("00000000", "00000000", True),
        ("planner", "name-706c616e6e6572", False),
        ("Planner", "name-506c616e6e6572", False),
        ("DEADBEEF", "name-4445414442454546", False),
        ("-", "name-2d", False),
        ("@reviewer", "role-7265766965776572", False),
        ("@x", "role-78", False),
        ("n" * 64, "name-" + "6e" * 64, False),
        ("@" + "r" * 64, "role-" + "72" * 64, False),
    ],
)
def test_an_address_and_its_folder(text: str, folder: str, is_id: bool) -> None:
    address = Address.parse(text)
    assert (address.text, address.folder, address.is_id) == (text, folder, is_id)
    assert Address.of_box(folder) == address
    assert len(folder) < 200, "leaves room for the name of a file"


BAD_ADDRESSES = ["", "@", "@@x", "a b", "a\n", "@a\n", "../x", "@../x", "ü", "@ü", "default", "@ALL", "n" * 65, "@" + "r" * 65]


@pytest.mark.parametrize("text", [*BAD_ADDRESSES, "@deadbeef", "a/b", "\ud800", None, 7, b"x"], ids=ascii)
def test_no_address(text: str) -> None:
    """Q10, S3."""
    with pytest.raises(errors.Config):
        Address.parse(text)


NO_BOXES = [
    "",
    "tmp",
    "quarantine",
    "dead_letter",
    "A1B2C3D4",
    "a1b2c3d4\n",
    "planner",
    "@reviewer",
    "name-",
    "name-6",
    "name-zz",
    "name-6E",
    "name-6e\n",
    "NAME-6e",
    "role-ff",
    "name-" + "6e" * 65,
    hexed("name", "../x"),
    hexed("name", "a\n"),
    hexed("name", "ü"),
    hexed("name", "default"),
    hexed("role", "@x"),
    hexed("role", "deadbeef"),
    hexed("name", "deadbeef"),
    hexed("name", "@reviewer"),
]


@pytest.mark.parametrize("folder", NO_BOXES, ids=ascii)
def test_a_folder_that_is_no_mailbox(folder: str) -> None:
    """S3. Each mailbox has one folder: whatever else lies there is not taken for it."""
    assert Address.of_box(folder) is None


@pytest.mark.parametrize("folder", [*NO_BOXES, "a1b2c3d4", "name-6e", "role-6e"], ids=ascii)
def test_an_address_of_a_folder_leads_back_to_it(folder: str) -> None:
    address = Address.of_box(folder)
    assert address is None or address.folder == folder


# Deliveries


@pytest.mark.parametrize(
    ("file", "number"),
    [
        ("x.json", 1),
        ("18e9e3658ecf5ae6-a3f3a711.json", 1),
        ("x~2.json", 2),
        ("x~1.json", 1),
        ("x~10.json", 10),
        ("x~999.json", 999),
        ("a.b-c_d~3.json", 3),
        ("x~0.json", 0),
        ("x~01.json", 0),
        ("x~.json", 0),
        ("x~-1.json", 0),
        ("x~2~3.json", 0),
        ("x~٣.json", 0),
        ("~2.json", 0),
        ("x~2.json\n", 0),
        ("x~2.txt", 0),
        ("x", 0),
        ("", 0),
        ("x.json.tmp", 0),
        (".json", 0),
        (".hidden.json", 0),
        ("a/b.json", 0),
        ("a b.json", 0),
    ],
    ids=ascii,
)
def test_which_delivery_a_name_stands_for(file: str, number: int) -> None:
    """Q10, Q20. 0 for a name that is no message's."""
    assert delivery_of(file) == number


@pytest.mark.parametrize("file", ["x.json", "18e9e3658ecf5ae6-a3f3a711.json", "a.b.json", "x~2.json", "y" * 160 + ".json"])
def test_deliveries_are_counted_on(file: str) -> None:
    """I4, Q20."""
    first = delivery_of(file)
    for number in range(first + 1, first + 30):
        file = next_delivery(file)
        assert delivery_of(file) == number


def test_no_delivery_is_the_last_that_can_be_named() -> None:
    """I2. A thousandth delivery may be allowed by the settings; its name must not hide it from every receiver."""
    assert delivery_of(next_delivery("x~999.json")) == 1000


# Moving messages


@pytest.fixture
def queue(folder: int) -> Iterator[int]:
    """The folder of all mailboxes, open."""
    fd = files.make_dir("queue", dir_fd=folder)
    yield fd
    os.close(fd)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "queue"


def publish(box: Mailbox, queue: int, file: str, data: bytes = b"data") -> None:
    with files.opened(files.make_dir("tmp", dir_fd=queue)) as tmp:
        box.publish(file, data, tmp_name="writer.1", tmp_fd=tmp, durable=False)


def everything(place: Path) -> dict[str, bytes]:
    """Every message in the queue, wherever it is; not the bells and reasons."""
    found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.endswith((".reason", "bell/bell"))}


def test_a_message_is_in_one_place_at_a_time(queue: int, place: Path) -> None:
    """I2, I4."""
    box = Mailbox.make(Address.parse("planner"), queue)
    root = "name-706c616e6e6572"
    publish(box, queue, "m.json")
    assert everything(place) == {f"{root}/new/m.json": b"data"}
    assert box.waiting() == ["m.json"]
    assert box.claim("m.json", ME)
    assert not box.claim("m.json", ME)
    assert everything(place) == {f"{root}/claimed/{ME}.m.json": b"data"}
    assert (box.waiting(), list(box.claims())) == ([], [(ME, "m.json")])
    assert box.read("m.json", ME, 3) == b"data", "one byte more than the limit, so that it is seen"
    assert box.give_back("m.json", ME)
    assert not box.give_back("m.json", ME)
    assert everything(place) == {f"{root}/new/m~2.json": b"data"}
    assert box.claim("m~2.json", ME)
    assert box.give_back("m~2.json", ME, as_file="m~2.json")
    assert box.claim("m~2.json", ME)
    assert not box.was_acknowledged("the-id")
    assert box.acknowledge("m~2.json", ME, "the-id")
    assert not box.acknowledge("m~2.json", ME, "the-id")
    assert box.was_acknowledged("the-id")
    assert {name for name in everything(place) if "acknowledged" not in name} == set()


def test_what_is_no_message_is_left_alone(queue: int, place: Path) -> None:
    """Q10, Q23."""
    box = Mailbox.make(Address.parse("planner"), queue)
    new = place / "name-706c616e6e6572" / "new"
    odd = [".hidden.json", "x.json.tmp", "x~0.json", "a b.json", "x", "y" * 161 + ".json"]
    for name in odd:
        (new / name).write_bytes(b"odd")
    publish(box, queue, "m.json")
    assert box.waiting() == ["m.json"]
    assert box.odd() == sorted(odd)
    assert len(os.listdir(box.new)) == len(odd) + 1


def test_they_wait_in_the_order_of_their_names(queue: int) -> None:
    """I6."""
    box = Mailbox.make(Address.parse("planner"), queue)
    for stamp in (3, 1, 2):
        publish(box, queue, f"{stamp:016x}-a.json")
    assert box.waiting() == [f"{stamp:016x}-a.json" for stamp in (1, 2, 3)]


@pytest.mark.parametrize("where", [set_aside.REFUSED, set_aside.DEAD])
@pytest.mark.parametrize("claimed", [True, False])
@pytest.mark.parametrize("stem", ["m", "y" * 150])
@pytest.mark.parametrize("address", ["a1b2c3d4", "n" * 64])
def test_what_is_set_aside_keeps_its_content_and_its_reason(
    where: str, claimed: bool, stem: str, address: str, queue: int, place: Path
) -> None:
    """I9, Q5. The longest names there may be: one bad file must not stay in the way of those behind it."""
    box = Mailbox.make(Address.parse(address), queue)
    publish(box, queue, f"{stem}.json", b"bad")
    if claimed:
        assert box.claim(f"{stem}.json", ME)
    assert box.set_aside(f"{stem}.json", where, "is no good", claimer=ME if claimed else None)
    assert not box.set_aside(f"{stem}.json", where, "is no good", claimer=ME if claimed else None)
    assert list(everything(place).values()) == [b"bad"]
    (kept,) = everything(place)
    assert kept.startswith(f"{where}/")
    assert (place / f"{kept}.reason").read_text() == "is no good\n"
    assert box.waiting() == list(box.claims()) == []


def test_setting_aside_loses_nothing(queue: int, place: Path) -> None:
    """I2. Two messages may have had one name, one after the other."""
    box = Mailbox.make(Address.parse("planner"), queue)
    for content in (b"one", b"two"):
        publish(box, queue, "m.json", content)
        box.set_aside("m.json", set_aside.DEAD, "is no good")
    assert sorted(everything(place).values()) == [b"one", b"two"]


def test_what_is_set_aside_is_explained_before_it_is_seen(queue: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sees the message can read why it is there; nothing stays of a try that came to nothing."""
    box = Mailbox.make(Address.parse("planner"), queue)
    publish(box, queue, "m.json", b"one")
    seen = []
    rename = os.rename

    def watched(*given: str, **more: int) -> None:
        seen.append([path.read_text() for path in (place / set_aside.DEAD).glob("*.reason")])
        rename(*given, **more)

    monkeypatch.setattr(os, "rename", watched)
    assert box.set_aside("m.json", set_aside.DEAD, "is no good")
    assert seen == [["is no good\n"]]
    assert not box.set_aside("m.json", set_aside.DEAD, "is gone")
    assert [path.read_text() for path in (place / set_aside.DEAD).glob("*.reason")] == ["is no good\n"]
    (place / set_aside.DEAD / "name-706c616e6e6572.n.json.reason").write_text("of one who was killed here")
    publish(box, queue, "n.json", b"two")
    assert box.set_aside("n.json", set_aside.DEAD, "is no good either")
    assert (place / set_aside.DEAD / "name-706c616e6e6572.n.json.reason").read_text() == "is no good either\n"


def test_a_dissolved_mailbox_loses_nothing_and_takes_nothing(queue: int, place: Path) -> None:
    """I2, Q17."""
    box = Mailbox.make(Address.parse(ME), queue)
    sender = Mailbox.open(Address.parse(ME), queue)
    for file in ("a.json", "b.json"):
        publish(box, queue, file, file.encode())
    assert box.claim("a.json", ME)
    assert box.is_whole()
    assert box.dissolve("its instance has left") == 2
    assert not box.is_whole()
    assert not (place / ME).exists()
    assert sorted(everything(place).values()) == [b"a.json", b"b.json"]
    assert {path.read_text() for path in (place / "dead_letter").glob("*.reason")} == {"its instance has left\n"}
    with pytest.raises(FileNotFoundError):
        publish(sender, queue, "late.json")
    assert not list((place / "tmp").iterdir())
    with pytest.raises(FileNotFoundError):
        Mailbox.open(Address.parse(ME), queue)


def test_every_mailbox_is_found(queue: int) -> None:
    texts = ["a1b2c3d4", "planner", "@reviewer"]
    for text in texts:
        Mailbox.make(Address.parse(text), queue)
    for other in ("tmp", "quarantine", "name-zz"):
        os.mkdir(other, dir_fd=queue)
    assert {address.text for address in boxes(queue)} == set(texts)
