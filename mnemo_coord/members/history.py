"""History: who came, left and died in this fleet, newest last.

::

    history.jsonl      sealed records, one a line, appended under the registry's lock
    history.1.jsonl    the older half; both together stay below half a megabyte

It answers what no snapshot can: whether an instance that is gone has left or died, and what happened while nobody looked.
Both files may be deleted by hand at any time.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk import files, records
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.events import EventKind

if TYPE_CHECKING:
    from mnemo_coord.disk.state_dir import StateDir

__all__ = ["Fact", "append", "how_it_went", "read", "version"]

NAME: Final = "history.jsonl"
OLDER: Final = "history.1.jsonl"
LIMIT: Final = 256 * 1024
_TAIL: Final = 16 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One line."""

    at: str
    kind: EventKind
    instance_id: str
    name: str | None
    pid: int


def append(state: StateDir, signer: Signer, fact: Fact) -> None:
    """Adds a line. A history that cannot be written is no reason to fail what happened."""
    line = records.seal({**asdict(fact), "kind": str(fact.kind)}, signer, Purpose.HISTORY) + b"\n"
    with suppress(OSError, errors.State):
        fd = _open(state)
        with files.opened(fd):
            if os.fstat(fd).st_size > LIMIT:
                os.rename(NAME, OLDER, src_dir_fd=state.fd, dst_dir_fd=state.fd)
            files.write_all(fd, line)


def _open(state: StateDir) -> int:
    try:
        return files.open_regular(NAME, os.O_WRONLY | os.O_APPEND, dir_fd=state.fd)
    except FileNotFoundError:
        return files.create(NAME, dir_fd=state.fd, flags=os.O_WRONLY | os.O_APPEND)


def read(state: StateDir, signer: Signer) -> list[Fact]:
    """What is remembered, oldest first. Lines that are not ours are passed over."""
    return [fact for name in (OLDER, NAME) for fact in _facts(_content(state, name), signer)]


def version(state: StateDir) -> tuple[int, ...]:
    """Changes whenever the newer file does; cheap."""
    try:
        status = os.stat(NAME, dir_fd=state.fd, follow_symlinks=False)
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def how_it_went(state: StateDir, signer: Signer, instance_id: str) -> EventKind | None:
    """Whether an instance that is gone left or died; None where the newest lines do not say."""
    gone = {EventKind.INSTANCE_LEFT, EventKind.INSTANCE_DIED}
    about = instance_id.encode()
    lines = (line for line in reversed(_content(state, NAME)[-_TAIL:].split(b"\n")) if about in line)  # verify only these
    found = (fact.kind for line in lines for fact in _facts(line, signer) if fact.instance_id == instance_id)
    return next((kind for kind in found if kind in gone), None)


def _content(state: StateDir, name: str) -> bytes:
    try:
        return files.read_bounded(name, 2 * LIMIT, dir_fd=state.fd)
    except (OSError, errors.State):
        return b""


def _facts(data: bytes, signer: Signer) -> list[Fact]:
    facts = []
    for line in data.split(b"\n"):
        with suppress(errors.State, ValueError, KeyError, TypeError):
            body = records.unseal(line, signer, Purpose.HISTORY, NAME)
            facts.append(Fact(**{**body, "kind": EventKind(body["kind"])}))
    return facts
