"""The registry: who has registered, in one file that loses nothing and heals itself.

::

    process_registry.json    {"version":1,"instances":{"a1b2c3d4":<sealed record>, …}}, replaced whole, 0600
    instances/<id>.lock      the same sealed record, written by its owner alone

A change is a read-modify-write under ``locks/registry.lock``, published by rename. It happens when an instance comes,
changes or goes, which is rare; heartbeats are elsewhere. The record in the owner's lock file is the original: a registry that
is missing or damaged is set aside and rebuilt from those, and an owner that finds its entry missing or altered writes it
again at its next heartbeat. An entry whose signature is not ours is kept as it is and never obeyed.

What a crash leaves: the old file or the new one, and perhaps ``process_registry.json.<writer>.tmp``. By hand, the file may
be deleted at any time; it comes back within one heartbeat.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, records
from mnemo_coord.disk.clock import Clock, rfc3339
from mnemo_coord.disk.files import CrashPoint
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import INSTANCES, QUARANTINE, StateDir
from mnemo_coord.events import EventKind
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.members import registry_text as text
from mnemo_coord.members.identity import is_id, lock_name
from mnemo_coord.members.registration import Registration
from mnemo_coord.members.registry_text import Stored

__all__ = ["REGISTRY", "Entries", "Entry", "Registry", "check"]

_log = logging.getLogger(__name__)

REGISTRY: Final = "process_registry.json"
LIMIT: Final = 4 * 1024 * 1024
"""Bytes. A record has about 600, so this is some 7,000 instances; anything larger is not ours."""
RECORD_LIMIT: Final = 4096
_POINTS: Final = (CrashPoint.REGISTRY_TMP_CREATED, CrashPoint.REGISTRY_TMP_WRITTEN, CrashPoint.REGISTRY_REPLACED)


class Entry(NamedTuple):
    """One member of the registry."""

    registration: Registration | None
    """None where its signature is not ours."""


Entries = dict[str, Entry]


class Registry:
    """The registry of one fleet, as one process sees and changes it."""

    def __init__(self, state: StateDir, signer: Signer, clock: Clock, lock_timeout: float) -> None:
        self.state = state
        self.signer = signer
        self._clock = clock
        self.lock_timeout = lock_timeout
        """Seconds that a change waits for the registry's lock."""
        self._cached: tuple[tuple[int, ...], Entries] | None = None
        self._seen: dict[bytes, Entry] = {}
        """The members of the last look, by their bytes: what has not changed is neither parsed nor verified again."""

    # Reading

    def version(self) -> tuple[int, ...]:
        """Changes whenever the file does; cheap."""
        try:
            status = os.stat(REGISTRY, dir_fd=self.state.fd, follow_symlinks=False)
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def read(self) -> Entries:
        """Everybody who has registered. A missing or damaged file is read from the originals instead.

        Raises:
            errors.Untrusted: something else than a regular file of ours lies at its path.
        """
        version = self.version()
        if self._cached is not None and version and self._cached[0] == version:
            return self._cached[1]
        try:
            data = self._bytes()
            entries = self._entries(text.split(data) or {}, trusted_only=True) or self._entries(self._parse(data))
        except FileNotFoundError:
            return self.originals()
        except errors.Damaged as error:
            _log.warning("%s; reading the instances' own records instead", error)
            return self.originals()
        self._cached = (version, entries)
        return entries

    def _bytes(self) -> bytes:
        try:
            return files.read_bounded(REGISTRY, LIMIT, dir_fd=self.state.fd)
        except errors.State as error:
            raise type(error).at(self.state.path / REGISTRY, error.reason, hint=error.hint) from None

    def _parse(self, data: bytes) -> Stored:
        document = records.parse(data, str(self.state.path / REGISTRY))
        instances = document.get("instances")
        if document.get("version") != text.VERSION or not isinstance(instances, dict):
            raise errors.Damaged.at(self.state.path / REGISTRY, "has no version 1 with instances")
        split = text.split(data)
        # Somebody has reformatted it: encoding a record again gives back the bytes that were signed.
        return split if split is not None else {key: records.encode(member) for key, member in instances.items()}

    def _entries(self, stored: Stored, *, trusted_only: bool = False) -> Entries:
        """The entries of these members; none with ``trusted_only`` when one of them is not ours, so may not even be JSON."""
        found, seen = {}, {}
        known = self._seen
        for key, member in stored.items():
            entry = known.get(member)
            if entry is None or (entry.registration and entry.registration.instance_id != key):
                entry = Entry(self._open_record(member, key))
                if entry.registration is None and trusted_only:
                    return {}
            found[key] = seen[member] = entry
        self._seen = seen
        return found

    def _open_record(self, sealed: bytes, instance_id: str) -> Registration | None:
        try:
            body = records.unseal(sealed, self.signer, Purpose.RECORD, instance_id)
        except errors.State:
            return None
        return self._from_body(body, instance_id)

    @staticmethod
    def _from_body(body: Mapping[str, Any], instance_id: str) -> Registration | None:
        try:
            found = Registration.from_body(body)
        except (ValueError, TypeError, OverflowError):
            return None
        return found if found.instance_id == instance_id else None

    def _near(self, instance_id: str) -> bytes:
        """The part of the file where the line of an id is to be expected; nothing where it is small, or has another form.

        The whole is half a megabyte at a thousand, all of them look at each change, and a part costs a twentieth.
        """
        try:
            with files.opened(files.open_regular(REGISTRY, dir_fd=self.state.fd)) as fd:
                size = os.fstat(fd).st_size
                ends = os.pread(fd, 64, 0) + os.pread(fd, 64, max(0, size - 64))
                if not 2 * text.NEAR < size <= LIMIT or not text.is_ours(ends):
                    return b""
                return os.pread(fd, 2 * text.NEAR, text.near(instance_id, size))
        except (OSError, errors.State):
            return b""

    def around(self, own_id: str, count: int, exact: int) -> tuple[int, Entries] | None:
        """How many ids are below this one, and the ``count`` entries that follow it on the ring; see `registry_text.around`.

        The others are not looked at: of a thousand entries that is a tenth of the work, and everybody has it at each change.
        From ``exact`` upwards the number is that of some of them.
        """
        found = text.following(self._near(own_id), own_id, count)
        try:
            if found is None or found[0] < exact:
                found = text.around(self._bytes(), own_id, count)
        except (OSError, errors.State):
            return None
        return None if found is None else (found[0], self._entries(found[1]))

    def absent(self, ids: Iterable[str]) -> set[str]:
        """Which of these ids are not in the registry; cheaper than reading it."""
        wanted = [each for each in ids if text.line_of(each) not in self._near(each)]
        if not wanted:
            return set()
        try:
            data = self._bytes()
            found = {each: text.has(data, each) for each in wanted}
        except (OSError, errors.State):
            found = dict.fromkeys(wanted)
        if None in found.values():
            entries = self.read()
            return {each for each in found if each not in entries}
        return {each for each, there in found.items() if not there}

    def original(self, instance_id: str) -> Registration | None:
        """The record in an instance's own lock file."""
        for _ in range(3):  # RACE: its owner may be rewriting it in place: a torn record fails its signature
            try:
                sealed = files.read_bounded(lock_name(instance_id), RECORD_LIMIT, dir_fd=self.state.folder(INSTANCES))
            except (OSError, errors.State):
                return None
            found = self._open_record(sealed, instance_id)
            if found is not None:
                return found
        return None

    def originals(self) -> Entries:
        """Everybody, from the lock files."""
        names = (name.removesuffix(".lock") for name in self.state.listing(INSTANCES) if name.endswith(".lock"))
        found = ((name, self.original(name)) for name in names if is_id(name))
        return {name: Entry(registration) for name, registration in found if registration is not None}

    # Changing

    def seal(self, registration: Registration) -> bytes:
        """The record as stored."""
        return records.seal(registration.to_body(), self.signer, Purpose.RECORD)

    def holds(self, registration: Registration) -> bool:
        """Whether the file holds exactly this record. Looks for the bytes: parsing is not needed to see that they are there."""
        sealed = self.seal(registration)
        try:
            return sealed in self._near(registration.instance_id) or sealed in self._bytes()
        except (OSError, errors.State):
            return False

    def put(self, registration: Registration, note: EventKind | None = None) -> None:
        """Adds or replaces one entry, and notes it in the history.

        Raises:
            errors.TimedOut: the registry stayed locked.
            errors.State: it cannot be written.
        """

        def change(stored: Stored) -> None:
            stored[registration.instance_id] = self.seal(registration)

        self._update(change, registration, note)

    def remove(self, registration: Registration, note: EventKind | None = None) -> None:
        """Takes one entry out if it is still this very one, and notes it in the history."""

        def change(stored: Stored) -> None:
            found = stored.get(registration.instance_id)
            if found is not None and self._open_record(found, registration.instance_id) == registration:
                del stored[registration.instance_id]

        self._update(change, registration, note)

    def take_leave(self, registration: Registration, patience: float) -> None:
        """Takes out the entry of an instance that leaves.

        It waits up to `lock_timeout` seconds as long as the registry changes within ``patience`` seconds: where many leave at
        once it is busy, not stuck.
        """
        deadline = time.monotonic() + self.lock_timeout
        self.lock_timeout = min(self.lock_timeout, patience)
        while True:
            seen = self.version()
            try:
                return self.remove(registration, EventKind.INSTANCE_LEFT)
            except errors.TimedOut:
                if self.version() == seen or time.monotonic() >= deadline:
                    raise

    def rebuild(self) -> None:
        """Sets aside whatever lies there and is no sound registry, and writes it anew from the originals.

        Other changes do so with a damaged file only: what is no file of ours at all is for the doctor, when told to.
        """
        self._update(lambda stored: None, None, None, set_aside=errors.State)

    def problem(self) -> str | None:
        """What is wrong with the file; None when nothing is, or when nobody needs it."""
        try:
            self._parse(self._bytes())
        except FileNotFoundError:
            return "is missing" if self.originals() else None
        except errors.State as error:
            return str(error.reason)
        return None

    def _update(
        self,
        change: Callable[[Stored], None],
        about: Registration | None,
        note: EventKind | None,
        *,
        set_aside: type[errors.State] = errors.Damaged,
    ) -> None:
        """Reads, changes and replaces the registry under its lock; writes nothing when nothing changed."""
        try:
            with locks.hold(self.state, "registry", self.lock_timeout):
                files.crash_point(CrashPoint.REGISTRY_LOCKED)
                for leftover in _leftovers(self.state):  # whoever wrote it had this lock, and no longer has
                    files.remove(leftover, dir_fd=self.state.fd)
                stored, sound = self._read_for_update(set_aside)
                before = dict(stored)
                change(stored)
                # Whoever rebuilt the registry may have put us in already: that we came is to be noted all the same.
                if stored == before and sound and note is not EventKind.INSTANCE_REGISTERED:
                    return
                self._write(stored)
                if about is not None and note is not None:
                    self._note(note, about)
        except errors.CoordinationError:
            raise  # TimedOut is an OSError too
        except OSError as error:
            raise errors.State.at(self.state.path / REGISTRY, (error.strerror or str(error)).lower()) from None

    def _note(self, kind: EventKind, about: Registration) -> None:
        from mnemo_coord.members import history  # who only looks has no use for it

        now = rfc3339(self._clock.wall_ns())
        fact = history.Fact(at=now, kind=kind, instance_id=about.instance_id, name=about.name, pid=about.process.pid)
        history.append(self.state, self.signer, fact)

    def _read_for_update(self, set_aside: type[errors.State]) -> tuple[Stored, bool]:
        try:
            return self._parse(self._bytes()), True
        except FileNotFoundError:
            return self._stored_originals(), False
        except set_aside as error:
            kept_as = self.state.set_aside(REGISTRY, dir_fd=self.state.fd, stamp=self._clock.wall_ns())
            _log.warning("%s; kept as %s/%s and rebuilt", error, QUARANTINE, kept_as)
            return self._stored_originals(), False

    def _stored_originals(self) -> Stored:
        return {key: self.seal(entry.registration) for key, entry in self.originals().items() if entry.registration}

    def _write(self, stored: Stored) -> None:
        data = text.join(stored)
        if len(data) > LIMIT:
            raise errors.State.at(self.state.path / REGISTRY, f"would be larger than {LIMIT} bytes")
        files.replace(REGISTRY, data, dir_fd=self.state.fd, writer=str(os.getpid()), points=_POINTS)


def check(registry: Registry, *, fix: bool = False) -> list[Finding]:
    """Whether the registry is there, parses, and has everybody in it; and what a writer that died left beside it."""
    found = [*_lost(registry), *(_leftover(name) for name in _leftovers(registry.state))]
    if not (fix and found):
        return found
    registry.rebuild()
    return [finding.mended() for finding in found]


def _lost(registry: Registry) -> list[Finding]:
    problem = registry.problem()
    if problem is None:
        return []
    return [
        Finding(
            code="registry-damaged",
            severity=Severity.ERROR,
            subject=REGISTRY,
            message=problem,
            hint="`mnemosyne doctor --fix` rebuilds it from the instances' own records; live ones also do so themselves",
        )
    ]


def _leftovers(state: StateDir) -> list[str]:
    return sorted(name for name in os.listdir(state.fd) if name.startswith(f"{REGISTRY}.") and name.endswith(".tmp"))


def _leftover(name: str) -> Finding:
    return Finding(
        code="leftover-registry",
        severity=Severity.WARNING,
        subject=name,
        message="a writer died while writing it",
        hint="`mnemosyne doctor --fix` removes it",
    )
