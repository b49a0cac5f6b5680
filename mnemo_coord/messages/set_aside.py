"""What is set aside: messages that were refused, and messages that could not be delivered, each with the reason beside it.

::

    coordination_queue/quarantine/<box>.<file>          refused: not signed by this fleet, damaged, or no message at all
    coordination_queue/dead_letter/<box>.<file>         expired, handed out too often, or its receiver is gone
    coordination_queue/…/<box>.<file>.reason            one line of text

Nothing here is ever handed out, and nothing here is removed by itself. A person looks at it, puts it back into a mailbox
(`requeue`) or drops it. Both folders may be emptied by hand at any time.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.disk.state_dir import QUEUE, StateDir
from mnemo_coord.messages import shared
from mnemo_coord.messages.message import LIMIT, Message, decode

if TYPE_CHECKING:
    from mnemo_coord.disk.signing import Signer
    from mnemo_coord.messages.sending import Sender

__all__ = ["DEAD", "REFUSED", "SetAside", "count", "drop", "entries", "find", "keep", "requeue"]

REFUSED: Final = "quarantine"
DEAD: Final = "dead_letter"
_SUFFIX: Final = ".reason"
_REASON_LIMIT: Final = 1024
_BOX_SHOWN: Final = 60
_FILE_SHOWN: Final = 160
"""How much of a mailbox's folder and of a file name goes into the name of what is set aside: names end at 255 bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SetAside:
    """One file that was set aside."""

    file: str
    """Its name: what `requeue` and `drop` are told."""
    where: str
    """``dead_letter`` or ``quarantine``."""
    reason: str
    """Why, in one line; empty where that could not be written down."""
    age: float
    """Seconds since then by the wall clock, never below zero."""
    message: Message | None
    """What it says, if it is a message of this fleet."""


def keep(name: str, *, source_fd: int, queue_fd: int, where: str, box: str, file: str, reason: str) -> bool:
    """Moves ``name`` out of a mailbox's folder and says why beside it. False when it was gone."""
    folder = files.make_dir(where, dir_fd=queue_fd)
    with files.opened(folder):
        kept_as = _free_name(f"{box[:_BOX_SHOWN]}.{file[-_FILE_SHOWN:]}", folder)
        _explain(kept_as, reason, folder)  # first, so that whoever sees the message can read why it is here
        try:
            os.rename(name, kept_as, src_dir_fd=source_fd, dst_dir_fd=folder)
        except FileNotFoundError:
            if kept_as not in os.listdir(folder):
                files.remove(f"{kept_as}{_SUFFIX}", dir_fd=folder)
            return False
    return True


def _free_name(wanted: str, folder: int) -> str:
    """``wanted``, or with a number behind it: what was set aside earlier is not replaced."""
    taken = set(os.listdir(folder))
    others = (f"{wanted}.{number}" for number in itertools.count(2))
    return wanted if wanted not in taken else next(name for name in others if name not in taken)


def _explain(kept_as: str, reason: str, folder: int) -> None:
    """Writes the reason for a file. On a full disk it goes without; one that somebody left who was killed here is replaced."""
    with suppress(OSError):
        files.remove(f"{kept_as}{_SUFFIX}", dir_fd=folder)
        fd = files.create(f"{kept_as}{_SUFFIX}", dir_fd=folder)
        with files.opened(fd):
            files.write_all(fd, reason.encode(errors="replace")[:_REASON_LIMIT] + b"\n")


def entries(state: StateDir, signer: Signer, wall_ns: int) -> Iterator[SetAside]:
    """Everything that was set aside, dead letters first, in the order of the names. Nothing is followed or waited for."""
    for where in (DEAD, REFUSED):
        for file in state.listing(f"{QUEUE}/{where}"):
            if not file.endswith(_SUFFIX):
                with suppress(FileNotFoundError):
                    yield _look(state, signer, where, file, wall_ns)


def count(state: StateDir, where: str) -> int:
    """How many there are in one of the two folders."""
    return sum(not file.endswith(_SUFFIX) for file in state.listing(f"{QUEUE}/{where}"))


def _look(state: StateDir, signer: Signer, where: str, file: str, wall_ns: int) -> SetAside:
    folder = state.folder(f"{QUEUE}/{where}")
    message = None
    status = os.stat(file, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISREG(status.st_mode):
        with suppress(errors.State, OSError):
            message = decode(shared.read(file, LIMIT, dir_fd=folder), signer, file)
    age = max(0.0, (wall_ns - status.st_ctime_ns) / 1e9)
    return SetAside(file=file, where=where, reason=_reason(file, folder), age=age, message=message)


def _reason(file: str, folder: int) -> str:
    try:
        text = files.read_bounded(f"{file}{_SUFFIX}", 2 * _REASON_LIMIT, dir_fd=folder)
    except (OSError, errors.State):
        return ""
    return text.decode(errors="replace").strip()


def find(state: StateDir, signer: Signer, file: str, wall_ns: int) -> SetAside:
    """One entry by its name, or by the id of its message where that is unambiguous.

    Raises:
        errors.NotFound: there is none.
    """
    found = [entry for entry in entries(state, signer, wall_ns) if file in {entry.file, entry.message and entry.message.id}]
    if len(found) == 1:
        return found[0]
    what = "several are" if found else "nothing is"
    raise errors.NotFound(f"{what} set aside as {file!r}", hint="`mnemosyne queue show` lists what there is")


def requeue(entry: SetAside, state: StateDir, sender: Sender, address: str | None = None) -> str:
    """Puts a message back into the mailbox that it was for, or that of ``address``, as a first delivery. Returns the address.

    It goes under its own id, so that one that was handled after all is not handled again, and without its time limit, which
    may be what brought it here.

    Raises:
        errors.Untrusted: it is no message of this fleet.
        errors.UnknownAddress: it was for an instance that is gone.
    """
    if entry.message is None:
        raise errors.Untrusted(f"{entry.file}: is no message of this fleet: {entry.reason}", path=entry.file, hint="drop it")
    to_agent = address or entry.message.to_agent or entry.file.partition(".")[0]
    sender.put(replace(entry.message, to_agent=to_agent, expires_ns=None, boot_id=None))
    drop(entry, state)
    return to_agent


def drop(entry: SetAside, state: StateDir) -> None:
    """Removes it, with its reason. A planted folder is not emptied: that is for a person.

    Raises:
        errors.State: it cannot be removed.
    """
    folder = state.folder(f"{QUEUE}/{entry.where}")
    try:
        files.remove(entry.file, dir_fd=folder)
        files.remove(f"{entry.file}{_SUFFIX}", dir_fd=folder)
    except OSError as error:
        where = state.path / QUEUE / entry.where / entry.file
        raise errors.State.at(where, (error.strerror or str(error)).lower(), hint="remove it by hand") from None
