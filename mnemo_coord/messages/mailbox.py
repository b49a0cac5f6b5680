"""A mailbox: the queue of one address, as folders.

::

    coordination_queue/
    ├── a1b2c3d4/                  mailbox of an id; dies with the instance
    ├── name-<hex>/                mailbox of a name, <hex> its UTF-8 in hex; waits for its next holder
    ├── role-<hex>/                mailbox of a role; worked by all its holders, each message by one
    │   ├── new/<stamp>-<rest>.json        published, in order of the names
    │   ├── claimed/<claimer>.<file>       taken by the instance <claimer>, not yet acknowledged
    │   └── bell/bell                      touched after publishing; what receivers watch
    ├── tmp/<sender>.<stamp>       being written
    ├── quarantine/<box>.<file>    refused, with the reason in a file of the same name and .reason
    └── dead_letter/<box>.<file>   could not be delivered, likewise

``<stamp>`` is 16 hex digits that rise with each message of a sender (`queue.Stamps`), so a mailbox is first-in first-out for
each sender whatever the clock does. A message that comes back after its receiver died or gave up is ``<file>~2.json``, then
``~3``: the number of the delivery. Any program with the fleet's key may put a signed file with another name that ends in
``.json`` into ``new/``; if it does not ring, the poll finds it. Names that begin with a dot, or do not end in ``.json``, are
left alone.

Publishing is a rename from ``tmp/``; claiming is a rename into ``claimed/``, of which exactly one of several receivers
succeeds; acknowledging is an unlink. After a crash a message is in ``tmp/`` (never sent), ``new/`` or ``claimed/``, and in
one of them only. By hand, anything in ``quarantine/``, ``dead_letter/`` and ``tmp/`` may be deleted.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.disk.files import CrashPoint
from mnemo_coord.members.identity import check_name, check_role, is_id

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BELL", "Address", "Mailbox", "boxes", "delivery_of", "next_delivery"]

NEW: Final = "new"
CLAIMED: Final = "claimed"
BELL: Final = "bell"
TMP: Final = "tmp"
REFUSED: Final = "quarantine"
DEAD: Final = "dead_letter"

_FILE: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,159}?(?:~([1-9][0-9]{0,8}))?\.json", re.ASCII)
_BOX: Final = re.compile(r"(name|role)-((?:[0-9a-f]{2}){1,64})", re.ASCII)
_BOX_SHOWN: Final = 60
_FILE_SHOWN: Final = 160
"""How much of a mailbox's folder and of a file name goes into the name of what is set aside: names end at 255 bytes."""
_POINTS: Final = (CrashPoint.MESSAGE_TMP_CREATED, CrashPoint.MESSAGE_TMP_WRITTEN, CrashPoint.MESSAGE_PUBLISHED)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a message goes: an instance id, a name, or a role written ``@role``."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Checks an address.

        Raises:
            errors.Config: it is none of the three.
        """
        if not isinstance(text, str):
            raise errors.Config(f"{text!r} is not an address", hint="an instance id, a name or @ROLE", key="address")
        if text.startswith("@"):
            check_role(text)
        elif not is_id(text):
            check_name(text, "address")
        return cls(text)

    @classmethod
    def of_box(cls, folder: str) -> Self | None:
        """The address of a mailbox folder, or None when the folder is no mailbox."""
        if is_id(folder):
            return cls(folder)
        match = _BOX.fullmatch(folder)
        if match is None:
            return None
        with suppress(errors.Config, UnicodeDecodeError):
            found = cls.parse(("@" if match[1] == "role" else "") + bytes.fromhex(match[2]).decode())
            return found if found.folder == folder else None
        return None

    @property
    def is_id(self) -> bool:
        """Whether it names one process, so that its mailbox dies with it."""
        return is_id(self.text)

    @property
    def folder(self) -> str:
        """The name of its mailbox folder."""
        if self.is_id:
            return self.text
        kind = "role" if self.text.startswith("@") else "name"
        return f"{kind}-{self.text.removeprefix('@').encode().hex()}"


def delivery_of(file: str) -> int:
    """Which delivery of its message a file name stands for; 0 for a name that is no message's."""
    match = _FILE.fullmatch(file)
    return int(match[1] or 1) if match else 0


def next_delivery(file: str) -> str:
    """The name that a message has when it is delivered once more."""
    stem = file.removesuffix(".json").partition("~")[0]
    return f"{stem}~{delivery_of(file) + 1}.json"


class Mailbox:
    """One open mailbox. Knows nothing of who may use it."""

    def __init__(self, address: Address, queue_fd: int, root_fd: int) -> None:
        self.address = address
        self._queue = queue_fd
        self._root = root_fd
        self._last = ""
        opened = [root_fd]
        # The descriptors live as long as somebody uses the mailbox: a sender, a delivery that is being handled.
        self.close = weakref.finalize(self, _close, opened)
        self._new, self._claimed, self._bell = (_open_into(opened, name) for name in (NEW, CLAIMED, BELL))

    @classmethod
    def open(cls, address: Address, queue_fd: int) -> Self:
        """Opens an existing mailbox.

        Raises:
            FileNotFoundError: there is none.
        """
        return cls(address, queue_fd, files.open_dir(address.folder, dir_fd=queue_fd))

    @classmethod
    def make(cls, address: Address, queue_fd: int) -> Self:
        """Opens a mailbox, making it where it is missing."""
        root = files.make_dir(address.folder, dir_fd=queue_fd)
        try:
            for inner in (NEW, CLAIMED):
                os.close(files.make_dir(inner, dir_fd=root))
            with files.opened(files.make_dir(BELL, dir_fd=root)) as bell, suppress(FileExistsError):
                os.close(files.create(BELL, dir_fd=bell))
            files.crash_point(CrashPoint.MAILBOX_MADE)
        except BaseException:
            os.close(root)
            raise
        return cls(address, queue_fd, root)

    # For the sender

    def publish(self, file: str, data: bytes, *, tmp_name: str, tmp_fd: int, durable: bool) -> None:
        """Makes a message appear, whole, and rings.

        Raises:
            FileNotFoundError: the mailbox has been removed meanwhile.
            OSError: it cannot be written; nothing has appeared.
        """
        try:
            files.publish(file, data, dir_fd=self._new, tmp_name=tmp_name, tmp_fd=tmp_fd, durable=durable, points=_POINTS)
        except OSError:
            # Syncing the folder may fail after the message has appeared: then it is taken back, unless somebody has it already.
            if not durable or files.remove(file, dir_fd=self._new) or not self._is_claimed(file):
                raise
        before, self._last = self._last, file
        # While our message before this one is unclaimed, a receiver has yet to come for it, and looks again after it has:
        # a burst rings once. Ringing costs a wake-up of the receiver, half as much as all the rest of sending.
        # RACE: claimed after this look, by a receiver that then lists again and finds this one, published before the look.
        if not (before and self._waits(before)):
            self.ring()

    def _is_claimed(self, file: str) -> bool:
        return any(claimed == file for _, claimed in self.claims())

    def _waits(self, file: str) -> bool:
        try:
            os.stat(file, dir_fd=self._new, follow_symlinks=False)
        except OSError:
            return False
        return True

    def is_whole(self) -> bool:
        """Whether its folders are still those at their paths."""
        return all(os.fstat(fd).st_nlink > 0 for fd in (self._new, self._claimed, self._bell))

    def ring(self) -> None:
        """Wakes who watches the bell."""
        files.ring(BELL, dir_fd=self._bell)

    # For the receiver

    def waiting(self) -> list[str]:
        """The files that wait, in order.

        Raises:
            FileNotFoundError: the mailbox has been removed.
        """
        return sorted(name for name in os.listdir(self._new) if _FILE.fullmatch(name))

    def depth(self) -> int:
        """About how many wait, more cheaply than `waiting`: whatever lies there counts."""
        return len(os.listdir(self._new))

    def odd(self) -> list[str]:
        """What lies among the messages and is none."""
        return sorted(name for name in os.listdir(self._new) if not _FILE.fullmatch(name))

    def claim(self, file: str, claimer: str) -> bool:
        """Takes a message; False when another receiver was first."""
        try:
            os.rename(file, f"{claimer}.{file}", src_dir_fd=self._new, dst_dir_fd=self._claimed)
        except FileNotFoundError:
            return False
        files.crash_point(CrashPoint.MESSAGE_CLAIMED)
        return True

    def read(self, file: str, claimer: str, limit: int) -> bytes:
        """The content of a claimed message, at most ``limit`` + 1 bytes.

        Raises:
            errors.Untrusted: it is no regular file of ours.
            OSError: it cannot be read now.
        """
        fd = files.open_regular(f"{claimer}.{file}", dir_fd=self._claimed)
        try:
            return files.read_at_most(fd, limit + 1)
        finally:
            os.close(fd)

    def look(self, file: str, limit: int) -> bytes:
        """The content of a waiting message, which stays where it is; like `read` otherwise."""
        return files.read_bounded(file, limit, dir_fd=self._new)

    def acknowledge(self, file: str, claimer: str) -> bool:
        """Removes a claimed message: it has been handled."""
        files.crash_point(CrashPoint.MESSAGE_HANDLED)
        removed = files.remove(f"{claimer}.{file}", dir_fd=self._claimed)
        files.crash_point(CrashPoint.MESSAGE_ACKNOWLEDGED)
        return removed

    def give_back(self, file: str, claimer: str, *, as_file: str | None = None) -> bool:
        """Puts a claimed message back among the waiting ones; by default as its next delivery."""
        target = next_delivery(file) if as_file is None else as_file
        try:
            os.rename(f"{claimer}.{file}", target, src_dir_fd=self._claimed, dst_dir_fd=self._new)
        except FileNotFoundError:
            return False
        return True

    def claims(self) -> Iterator[tuple[str, str]]:
        """Every claimed message, as claimer and file."""
        with suppress(FileNotFoundError):
            for name in sorted(os.listdir(self._claimed)):
                claimer, _, file = name.partition(".")
                if is_id(claimer) and file:
                    yield claimer, file

    def set_aside(self, file: str, where: str, reason: str, *, claimer: str | None = None) -> bool:
        """Moves a message, claimed or waiting, to ``quarantine/`` or ``dead_letter/`` and says why beside it."""
        if claimer is None:
            return self._move(self._new, file, file, where, reason)
        return self._move(self._claimed, f"{claimer}.{file}", file, where, reason)

    def _move(self, source: int, name: str, file: str, where: str, reason: str) -> bool:
        folder = files.make_dir(where, dir_fd=self._queue)
        with files.opened(folder):
            kept_as = _free_name(f"{self.address.folder[:_BOX_SHOWN]}.{file[-_FILE_SHOWN:]}", folder)
            try:
                os.rename(name, kept_as, src_dir_fd=source, dst_dir_fd=folder)
            except FileNotFoundError:
                return False
            _explain(kept_as, reason, folder)
        return True

    def dissolve(self, reason: str) -> int:
        """Ends the mailbox: what waits or is claimed in it goes to the dead letters. Returns how many."""
        moved = 0
        # RACE: a sender that opened it earlier may publish until the very end. The folder is removed only when it is empty,
        # and a publication into a removed folder fails and is reported to the sender.
        while True:
            for source in (self._new, self._claimed):
                moved += sum(self._move(source, name, name, DEAD, reason) for name in _names(source))
            if self._remove_folders():
                return moved

    def _remove_folders(self) -> bool:
        try:
            for name in (NEW, CLAIMED):
                _remove_folder(name, self._root)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                return False
            raise
        with suppress(FileNotFoundError):
            files.remove(BELL, dir_fd=self._bell)
        _remove_folder(BELL, self._root)
        _remove_folder(self.address.folder, self._queue)
        return True


def _open_into(opened: list[int], name: str) -> int:
    fd = files.open_dir(name, dir_fd=opened[0])
    opened.append(fd)
    return fd


def _close(opened: list[int]) -> None:
    for fd in opened:
        with suppress(OSError):
            os.close(fd)


def _free_name(wanted: str, folder: int) -> str:
    """``wanted``, or with a number behind it: what was set aside earlier is not replaced."""
    taken = set(os.listdir(folder))
    others = (f"{wanted}.{number}" for number in itertools.count(2))
    return wanted if wanted not in taken else next(name for name in others if name not in taken)


def _names(fd: int) -> list[str]:
    try:
        return sorted(os.listdir(fd))
    except FileNotFoundError:
        return []


def _remove_folder(name: str, dir_fd: int) -> None:
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=dir_fd)


def _explain(kept_as: str, reason: str, folder: int) -> None:
    """Writes the reason beside a message. The message is safe already; on a full disk it goes without."""
    with suppress(OSError):
        text = reason.encode(errors="replace") + b"\n"
        name = f"{kept_as}.reason"
        files.publish(name, text, dir_fd=folder, tmp_name=f"{name}.tmp", tmp_fd=folder, durable=False)


def boxes(queue_fd: int) -> Iterator[Address]:
    """The address of every mailbox there is."""
    for folder in sorted(os.listdir(queue_fd)):
        address = Address.of_box(folder)
        if address is not None:
            yield address
