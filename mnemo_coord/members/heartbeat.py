"""The heartbeat: proof that an instance still makes progress.

::

    instances/<id>.beat    a sealed record, padded with spaces to 512 bytes, rewritten in place by its owner alone

It is written through a descriptor that stays open: no lock, no temporary file, no new name, and nothing closes, so nobody
who watches the folder wakes. A reader may meet a beat half written; its signature fails and the reader looks again. An old
beat means *stalled*. It never means dead.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from operator import itemgetter
from typing import Any, Final, NamedTuple

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, records
from mnemo_coord.disk.clock import Clock, rfc3339
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import INSTANCES, StateDir
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.members.identity import is_id

__all__ = ["Beat", "BeatFile", "beat_name", "check", "read"]

SIZE: Final = 512
TRAFFIC_SUFFIX: Final = ".traffic"
"""Of the file beside it that says what was received (messages.traffic)."""
_TORN_READS: Final = 5


def beat_name(instance_id: str) -> str:
    """The heartbeat file of an instance, inside ``instances/``."""
    return f"{instance_id}.beat"


class Beat(NamedTuple):
    """One heartbeat."""

    instance_id: str
    seq: int
    """Rises by one at each beat."""
    at: str
    """Wall clock, for display."""
    age_ns: int
    """The clock that ages are counted by, at the beat."""
    boot_id: str
    record_seq: int
    """The newest version of its owner's registration."""

    def to_body(self) -> dict[str, Any]:
        """As the members of a sealed record."""
        return self._asdict()

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Beat:
        """Reads a beat back.

        Raises:
            ValueError: it is not one.
        """
        try:
            members = _members(body)
        except KeyError:
            members = ()
        if tuple(map(type, members)) != _TYPES:
            raise ValueError("not a heartbeat")
        return cls._make(members)


_members: Final = itemgetter(*Beat._fields)
_TYPES: Final = (str, int, str, int, str, int)
"""The exact types of the members: ``True`` is no number here."""


class BeatFile:
    """The heartbeat file of this instance."""

    def __init__(self, state: StateDir, signer: Signer, clock: Clock, instance_id: str) -> None:
        self._state = state
        self.signer = signer
        self._clock = clock
        self._id = instance_id
        self._seq = 0
        self._file = locks.Descriptor(-1)

    def beat(self, record_seq: int) -> Beat:
        """Writes the next heartbeat; makes the file where it is missing.

        Raises:
            OSError: it cannot be written now.
        """
        if not self._is_there():
            self._create()
        self._seq += 1
        beat = Beat(
            instance_id=self._id,
            seq=self._seq,
            at=rfc3339(self._clock.wall_ns()),
            age_ns=self._clock.age_ns(),
            boot_id=self._clock.boot_id,
            record_seq=record_seq,
        )
        sealed = records.seal(beat.to_body(), self.signer, Purpose.HEARTBEAT)
        if os.pwrite(self._file.fd, sealed.ljust(SIZE), 0) != SIZE:
            raise OSError(errno.EIO, "A heartbeat was written only in part")
        return beat

    def _is_there(self) -> bool:
        try:
            mine = os.fstat(self._file.fd)
            at_name = os.stat(beat_name(self._id), dir_fd=self._state.folder(INSTANCES), follow_symlinks=False)
        except OSError:
            return False
        return (mine.st_dev, mine.st_ino) == (at_name.st_dev, at_name.st_ino)

    def _create(self) -> None:
        folder = self._state.folder(INSTANCES)
        self._file.close()
        files.remove(beat_name(self._id), dir_fd=folder)  # only ever ours: the id is
        self._file = locks.Descriptor(files.create(beat_name(self._id), dir_fd=folder))

    def announce(self) -> None:
        """Closes a written descriptor of the file: everybody who watches the folder wakes and looks at this instance."""
        with suppress(OSError, errors.State):
            os.close(files.open_regular(beat_name(self._id), os.O_WRONLY, dir_fd=self._state.folder(INSTANCES)))

    def remove(self) -> None:
        """Ends it."""
        with suppress(OSError):
            files.remove(beat_name(self._id), dir_fd=self._state.folder(INSTANCES))
        self._file.close()


def read(state: StateDir, signer: Signer, instance_id: str) -> Beat | None:
    """The newest heartbeat of an instance; None where there is none that is its own."""
    name = beat_name(instance_id)
    for _ in range(_TORN_READS):  # RACE: its owner rewrites it in place
        try:
            data = files.read_bounded(name, SIZE, dir_fd=state.folder(INSTANCES))
            beat = Beat.from_body(records.unseal(data.rstrip(), signer, Purpose.HEARTBEAT, name))
        except (errors.Untrusted, errors.Damaged, ValueError):
            continue
        except OSError:
            return None
        return beat if beat.instance_id == instance_id else None
    return None


def check(state: StateDir, registered: Mapping[str, Any], *, fix: bool = False) -> list[Finding]:
    """Files of instances that have neither a lock file nor a registration: heartbeats, tokens, sums of traffic."""
    names = state.listing(INSTANCES)
    owners = {name.removesuffix(".lock") for name in names if name.endswith(".lock")} | set(registered)
    found = []
    for name in names:
        instance_id, _, kind = name.partition(".")
        if kind in {"beat", "token", "traffic"} and is_id(instance_id) and instance_id not in owners:
            finding = Finding(
                code="leftover-heartbeat",
                severity=Severity.WARNING,
                subject=f"{INSTANCES}/{name}",
                message="belongs to no instance",
                hint="`mnemosyne doctor --fix` removes it",
            )
            found.append(finding.mended_by(partial(files.remove, name, dir_fd=state.folder(INSTANCES))) if fix else finding)
    return found
