"""A fleet seen from outside: who is in it, sending to it, clearing away its dead. Joining it is the coordinator's part.

Everything that does not need an instance of its own works on this: the commands that look and send, the doctor, the API. It
wires the rooms of one state directory together; it decides nothing that a room could.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Self

from mnemo_coord import errors
from mnemo_coord.disk import signing
from mnemo_coord.disk.clock import Clock, SystemClock, rfc3339
from mnemo_coord.disk.state_dir import BRANCHES, StateDir
from mnemo_coord.events import Broadcaster
from mnemo_coord.holdings import edits
from mnemo_coord.holdings.branch_news import BranchNews
from mnemo_coord.holdings.claims import Claims
from mnemo_coord.holdings.edit_news import EditNews
from mnemo_coord.members import liveness, reports
from mnemo_coord.members.identity import check_name, is_id
from mnemo_coord.members.reaper import Reaper
from mnemo_coord.members.registration import Registration
from mnemo_coord.members.registry import Entries, Registry
from mnemo_coord.memory.place import finder
from mnemo_coord.messages.address import Address
from mnemo_coord.messages.delivery import Receipt
from mnemo_coord.messages.fates import Fates
from mnemo_coord.messages.mailboxes import Mailboxes
from mnemo_coord.messages.message import NO_PAYLOAD
from mnemo_coord.messages.queue import Queue
from mnemo_coord.messages.sending import Options, Sender
from mnemo_coord.roster import Roster
from mnemo_coord.settings import Settings, resolve

if TYPE_CHECKING:
    from mnemo_coord.holdings.branches import Branches
    from mnemo_coord.holdings.worktrees import Worktrees
    from mnemo_coord.members.history import Fact
    from mnemo_coord.members.instance import Instance
    from mnemo_coord.memory.memories import Memories

__all__ = ["Fleet"]


class Fleet:
    """One fleet. Use `Fleet.open`; close it when done."""

    def __init__(self, state: StateDir, settings: Settings, clock: Clock) -> None:
        self.state = state
        self.settings = settings
        self.clock = clock
        self.events = Broadcaster(settings.api_capacity, lambda: rfc3339(clock.wall_ns()))
        self.signer = signing.load(state)
        self.registry = Registry(state, self.signer, clock, settings.lock_timeout)
        self.mailboxes = Mailboxes(state)
        self.queue = Queue(self.mailboxes, self.signer, clock, settings, self.events)
        self.fates = Fates(self.mailboxes, self.signer, clock)
        self.sender = Sender(self.mailboxes, self.signer, clock, settings, self.events)
        self.claims = Claims(state, self.signer, clock)
        said = (partial(reports.remove, state), partial(edits.remove, state))
        releases = (self.queue.release_of, self.claims.release_of, *said, self.release_branches)
        self.reaper = Reaper(self.registry, clock, releases, settings.stalled_after)
        self.roster = Roster(self.registry, clock, settings)
        self._holders: tuple[Entries | None, dict[str, list[Registration]]] = (None, {})
        self._memory_place = finder(settings.db_path, state.path)

    @cached_property
    def worktrees(self) -> Worktrees:
        """The git worktrees of its instances. Starting processes is loaded by whoever needs it."""
        from mnemo_coord.holdings.worktrees import Worktrees

        return Worktrees(self.state, self.signer, self.clock, self.lives)

    @cached_property
    def memory(self) -> Memories:
        """The shared database of memories, for a program that is no instance. Opened when it is first used."""
        from mnemo_coord.memory.engine import Engine
        from mnemo_coord.memory.memories import Memories

        engine = Engine(self._memory_place, timeout=self.settings.db_timeout, durable=self.settings.durable)
        return Memories(engine, self.clock)

    def has_memory(self) -> bool:
        """Whether there is a database of memories. Opens and loads nothing."""
        try:
            return os.path.lexists(self._memory_place().path)
        except errors.Config:
            return False

    @cached_property
    def branches(self) -> Branches:
        """Who works on which branch."""
        from mnemo_coord.holdings.branches import Branches
        from mnemo_coord.holdings.globs import check_globs

        settings = self.settings
        try:
            critical = check_globs(glob.strip() for glob in settings.critical_paths.split(",") if glob.strip())
        except errors.Config as error:
            raise errors.Config(f"critical_paths: {error.message}", hint=error.hint, key="critical_paths") from None
        return Branches(
            self.claims,
            self.clock,
            self.lives,
            critical=critical,
            reminder=settings.branch_reminder,
            patience=settings.lock_timeout,
        )

    @cached_property
    def branch_news(self) -> BranchNews:
        """What changes in it, as events."""
        return BranchNews(self.state, self.signer, self.events)

    @cached_property
    def edit_news(self) -> EditNews:
        """Which files two are changing, as events."""
        return EditNews(self.state, self.signer, self.events, lambda: self.branches)

    def release_branches(self, instance_id: str) -> None:
        """Removes what an instance had of branches. Most have nothing, and load nothing for it."""
        if f"{instance_id}.json" in self.state.listing(BRANCHES):
            self.branches.release_of(instance_id)

    @classmethod
    @errors.translated
    def open(
        cls,
        state_dir: str | os.PathLike[str] | None = None,
        *,
        settings: Settings | None = None,
        clock: Clock | None = None,
        create: bool = True,
        tighten: bool = False,
    ) -> Self:
        """Opens the fleet of a state directory.

        ``create`` makes it where there is none; without it nothing is written. ``tighten`` takes away the rights of others.

        Raises:
            errors.NotFound: there is none, and ``create`` is false.
            errors.State: it cannot be used.
        """
        state = StateDir.open(state_dir, create=create, tighten=tighten)
        try:
            return cls(state, settings or resolve(), clock or SystemClock())
        except BaseException:
            state.close()
            raise

    # Who is here

    @errors.translated
    def instances(self) -> list[Instance]:
        """Everybody who is registered, with a verdict, in order of registration."""
        return self.roster.instances()

    @errors.translated
    def departed(self) -> list[Fact]:
        """What is remembered of who came, left and died, oldest first."""
        return self.roster.departed()

    @errors.translated
    def present(self, address: Address) -> bool:
        """Whether somebody alive receives at an address."""
        entries = self.registry.read()
        if self._holders[0] is not entries:
            self._holders = (entries, _by_address(entries))
        return any(self.reaper.receives(registration) for registration in self._holders[1].get(address.text, ()))

    @errors.translated
    def find(self, who: str) -> Registration:
        """The registration of a live instance, by its id or its name.

        Raises:
            errors.NotFound: nobody alive has it.
        """
        entries = self.registry.read().values()
        found = (entry.registration for entry in entries if entry.registration)
        for registration in found:
            if who in {registration.instance_id, registration.name} and self.lives(registration.instance_id):
                return registration
        raise errors.NotFound(f"no live instance is called {who!r}", hint="`mnemosyne list` shows who is alive")

    @errors.translated
    def report(self, who: str, state: str, text: str = "") -> reports.AgentReport:
        """Notes what an instance, given by id or name, says of itself.

        Raises:
            errors.NotFound: nobody alive has that id or name.
            errors.Config: the state or the text is not valid.
        """
        reports.check_report(state, text)
        return reports.write(self.state, self.signer, self.clock, self.find(who).instance_id, state, text)

    @errors.translated
    def lives(self, instance_id: str) -> bool:
        """Whether an instance, or a receiver that holds a lock without being registered, is still there."""
        entry = self.registry.read().get(instance_id)
        if entry is not None and entry.registration is not None:
            return self.reaper.verdict(entry.registration) is not liveness.Verdict.DEAD
        return entry is not None or self.reaper.holds_lock(instance_id)

    @errors.translated
    def cleanup_stale(self) -> list[str]:
        """Reaps every dead instance and clears away failed starts. Returns their ids."""
        registrations = [entry.registration for entry in self.registry.read().values() if entry.registration]
        reaped = [registration.instance_id for registration in self.reaper.reap(registrations, self.settings.lock_timeout)]
        return reaped + [
            leftover for leftover in self.reaper.leftovers() if self.reaper.clear(leftover, self.settings.lock_timeout)
        ]

    # What is said

    @errors.translated
    def send(self, address: str, message_type: str, payload: Any = NO_PAYLOAD, *, sender: str, **options: Any) -> Receipt:
        """Sends one message; see `Sender.send`, and `Options` for the rest of what may be asked for.

        ``sender`` is the name under which a program outside of the fleet speaks.
        """
        return self.sender.send(
            sender if is_id(sender) else check_name(sender),
            Address.parse(address),
            message_type,
            payload,
            present=self.present,
            options=Options(**options),
        )

    @errors.translated
    def broadcast(self, message_type: str, payload: Any = NO_PAYLOAD, *, sender: str, **options: Any) -> Receipt:
        """Sends one message to every live instance but the sender; ``options`` as in `send`."""
        return self.sender.broadcast(
            sender if is_id(sender) else check_name(sender),
            [key for key in self._living() if key != sender],
            message_type,
            payload,
            options=Options(**options),
        )

    def _living(self) -> Iterable[str]:
        entries = self.registry.read().items()
        return (key for key, entry in entries if entry.registration and self.reaper.receives(entry.registration, once=True))

    def close(self) -> None:
        """Closes every file. Idempotent."""
        if "memory" in self.__dict__:
            self.memory.close()
        self.mailboxes.close()
        self.reaper.close()
        self.state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(errors.CoordinationError):
            self.close()


def _by_address(entries: Entries) -> dict[str, list[Registration]]:
    found: dict[str, list[Registration]] = {}
    for key, entry in entries.items():
        if entry.registration is None:
            continue
        names = [key, *([entry.registration.name] if entry.registration.name else [])]
        for address in [*names, *(f"@{role}" for role in entry.registration.roles)]:
            found.setdefault(address, []).append(entry.registration)
    return found
