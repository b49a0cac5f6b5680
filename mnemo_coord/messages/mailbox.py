"""A mailbox: the queue of one address, as folders.

::

    coordination_queue/
    ├── a1b2c3d4/                  mailbox of an id; dies with the instance
    ├── name-<hex>/                mailbox of a name, <hex> its UTF-8 in hex; waits for its next holder
    ├── role-<hex>/                mailbox of a role; worked by all its holders, each message by one
    │   ├── new/<stamp>-<rest>.json        published, in order of the names
    │   ├── claimed/<claimer>.<file>       taken by the instance <claimer>, not yet acknowledged
    │   ├── claimed/acknowledged.<file>    acknowledged on a disk too full to note it
    │   ├── bell/bell                      touched after publishing; what receivers watch
    │   └── acknowledged                   ids that were acknowledged (messages.acknowledged)
    ├── tmp/<sender>.<stamp>       being written
    ├── quarantine/<box>.<file>    refused, with the reason in a file of the same name and .reason (messages.set_aside)
    └── dead_letter/<box>.<file>   could not be delivered, likewise

``<stamp>`` is 16 hex digits that rise with each message of a sender (`disk.clock.Stamps`), so a mailbox is first-in first-out
for each sender whatever the clock does. A message that comes back after its receiver died or gave up is ``<file>~2.json``, then
``~3``: the number of the delivery. Any program with the fleet's key may put a signed file with another name that ends in
``.json`` into ``new/``; if it does not ring, the poll finds it. Names that begin with a dot, or do not end in ``.json``, are
left alone.

Publishing is a rename from ``tmp/``, of a broadcast a link (`messages.shared`); claiming is a rename into ``claimed/``, of
which exactly one of several receivers succeeds; acknowledging is a note of its id and an unlink. After a crash a message is in
``tmp/`` (never sent), ``new/`` or ``claimed/``, and in one of them only; a broadcast that some have may be in ``tmp/``
too. By hand, anything in ``quarantine/``, ``dead_letter/`` and ``tmp/`` may be deleted.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import weakref
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final, Self

from mnemo_coord import errors
from mnemo_coord.disk import files, vanishing
from mnemo_coord.disk.emptiness import Emptiness
from mnemo_coord.disk.files import CrashPoint
from mnemo_coord.disk.handles import Handles
from mnemo_coord.members.identity import is_id
from mnemo_coord.messages import acknowledged, set_aside, shared
from mnemo_coord.messages.acknowledged import Acknowledged
from mnemo_coord.messages.address import Address
from mnemo_coord.messages.file_name import ids_of, is_message, is_of, next_delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BELL", "TMP", "Mailbox"]

_log = logging.getLogger(__name__)

NEW: Final = "new"
CLAIMED: Final = "claimed"
BELL: Final = "bell"
TMP: Final = "tmp"

_LOOKS: Final = 16
_MARK: Final = "acknowledged"


class Mailbox:
    """One open mailbox. Knows nothing of who may use it."""

    def __init__(self, address: Address, queue_fd: int, root_fd: int) -> None:
        self.address = address
        self._queue = queue_fd
        self._root = root_fd
        self._handles = Handles(root_fd)
        self._last = ""
        self._mutex = threading.Lock()
        self._acknowledged = Acknowledged(root_fd)
        # The descriptors live as long as somebody uses the mailbox: a sender, a delivery that is being handled.
        self.close = weakref.finalize(self, _close, self._handles, self._acknowledged)
        self._new = self._handles.open_dir(NEW, dir_fd=self._root)
        self._empty: tuple[Emptiness, Emptiness] | None = None

    # A sender needs neither of these two, and a broadcast opens a thousand mailboxes.

    @cached_property
    def _claimed(self) -> int:
        return self._handles.open_dir(CLAIMED, dir_fd=self._root)

    @cached_property
    def _bell(self) -> int:
        return self._handles.open_dir(BELL, dir_fd=self._root)

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

    def publish(
        self, file: str, data: bytes, *, tmp_name: str, tmp_fd: int, durable: bool, ring: bool = True, source: str = ""
    ) -> None:
        """Makes a message appear, whole, and rings; without ``ring`` the caller does that. For ``source`` see `files.publish`.

        Raises:
            FileNotFoundError: the mailbox has been removed meanwhile.
            OSError: it cannot be written; nothing has appeared.
            errors.Unknown: it has appeared, but could not be made durable, and somebody has taken it.
        """
        try:
            files.publish(
                file,
                data,
                dir_fd=self._new,
                tmp_name=tmp_name,
                tmp_fd=tmp_fd,
                durable=durable,
                points=shared.POINTS,
                source=source,
            )
        except files.UnsyncedError as error:
            # It has appeared, and may not survive a power cut: it is taken back, unless somebody has it already.
            if not self._take_back(file):
                raise errors.Unknown(f"{file}: sent, but it cannot be made durable: {error.strerror}") from None
            raise
        before, self._last = self._last, file
        # While our message before this one is unclaimed, a receiver has yet to come for it, and looks again after it has:
        # a burst rings once. Ringing costs a wake-up of the receiver, half as much as all the rest of sending.
        # RACE: claimed after this look, by a receiver that then lists again and finds this one, published before the look.
        if ring and not (before and self._waits(before)):
            self.ring()

    def _take_back(self, file: str) -> bool:
        try:
            return files.remove(file, dir_fd=self._new)
        except OSError:
            return False

    def _waits(self, file: str) -> bool:
        return os.access(file, os.F_OK, dir_fd=self._new, follow_symlinks=False)

    def copy_of(self, message_id: str, limit: int) -> bytes | None:
        """What lies here of a message with this id: its bytes, none when it has been acknowledged, None when there is none.

        RACE: messages go from ``new/`` to ``claimed/`` to the log, so looking in that order misses none; one that is given
        back goes the other way, hence the second look.
        """
        for source in (self._new, self._claimed, self._new, self._claimed):
            for name in os.listdir(source):
                file = name.partition(".")[2] if source == self._claimed else name
                if is_of(file, message_id):
                    with suppress(OSError, errors.State):
                        return shared.read(name, limit, dir_fd=source)
        return b"" if self.was_acknowledged(message_id) else None

    def is_whole(self) -> bool:
        """Whether its folders and its bell are still there, and open."""
        try:
            rings = self._claimed >= 0 and os.access(BELL, os.F_OK, dir_fd=self._bell, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return rings and self._handles.are_there()

    def is_still(self) -> bool:
        """Whether nothing waits and nothing is claimed.

        Raises:
            OSError: it cannot be told.
        """
        if self._empty is None:
            self._empty = Emptiness(self._new), Emptiness(self._claimed)
        return self._empty[0].holds() and self._empty[1].holds()

    def ring(self) -> None:
        """Wakes who watches the bell. One that is not there is nobody's loss: receivers poll as well."""
        with suppress(OSError, errors.State):
            files.ring(BELL, dir_fd=self._bell)

    # For the receiver

    def waiting(self) -> list[str]:
        """The files that wait, in order.

        Raises:
            FileNotFoundError: the mailbox has been removed.
        """
        names = os.listdir(self._new)
        # RACE: a folder that is read while a sender publishes may show its second message and not its first. What was there
        # when a look ended is in the next one; so it is looked again until nothing older than the newest has turned up.
        for _ in range(_LOOKS if names else 0):
            known, newest = set(names), max(names)
            names, before = os.listdir(self._new), names
            if not any(name < newest and name not in known for name in names):
                names = before
                break
        return sorted(name for name in names if is_message(name))

    @property
    def new(self) -> int:
        """The open folder of what waits."""
        return self._new

    def odd(self) -> list[str]:
        """What lies among the messages and is none."""
        return sorted(name for name in os.listdir(self._new) if not is_message(name))

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
        return shared.read(f"{claimer}.{file}", limit, dir_fd=self._claimed)

    def look(self, file: str, limit: int) -> bytes:
        """The content of a waiting message, which stays where it is; like `read` otherwise."""
        return shared.read(file, limit, dir_fd=self._new)

    def was_acknowledged(self, message_id: str) -> bool:
        """Whether a message with this id was handled here before."""
        with self._mutex:
            return message_id in self._acknowledged

    def acknowledge(self, file: str, claimer: str, message_id: str) -> bool:
        """Removes a claimed message: it has been handled. False when it was gone."""
        files.crash_point(CrashPoint.MESSAGE_HANDLED)
        noted = self._note(message_id)
        files.crash_point(CrashPoint.MESSAGE_ACK_NOTED)
        # Where not even a log could be made there is no inode left: removing the message gives one back, a mark would not.
        removed = (self.discard if noted or not self._acknowledged.exists else self._mark)(file, claimer)
        files.crash_point(CrashPoint.MESSAGE_ACKNOWLEDGED)
        return removed

    def _mark(self, file: str, claimer: str) -> bool:
        """On a full disk the file itself becomes the note, emptied: a rename needs no room. `settle_marks` sees to it later."""
        mark, folder = f"{_MARK}.{file}", self._claimed
        try:
            os.rename(f"{claimer}.{file}", mark, src_dir_fd=folder, dst_dir_fd=folder)
        except FileNotFoundError:
            return False
        # A file with other names, which are messages of others, is not opened, so not emptied.
        with suppress(OSError, errors.State), files.opened(files.open_regular(mark, os.O_WRONLY, dir_fd=folder)) as fd:
            os.ftruncate(fd, 0)
        return True

    def settle_marks(self) -> None:
        """Notes the ids of messages that became their own notes, and removes them, where there is room again."""
        for name in vanishing.names(self._claimed):
            mark, _, file = name.partition(".")
            if mark == _MARK and all(self._note(message_id) for message_id in ids_of(file)):
                files.remove(name, dir_fd=self._claimed)

    def _note(self, message_id: str) -> bool:
        """Notes an id as acknowledged. A full disk keeps nobody from emptying his mailbox: then it goes without."""
        try:
            with self._mutex:
                self._acknowledged.add(message_id)
        except (OSError, errors.State) as error:
            _log.debug("Cannot note that %s was acknowledged: %s", message_id, error)
            return False
        return True

    def discard(self, file: str, claimer: str) -> bool:
        """Removes a claimed message that need not be handled. False when it was gone."""
        return files.remove(f"{claimer}.{file}", dir_fd=self._claimed)

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
            return self._keep(self._new, file, file, where, reason)
        return self._keep(self._claimed, f"{claimer}.{file}", file, where, reason)

    def _keep(self, source: int, name: str, file: str, where: str, reason: str) -> bool:
        return set_aside.keep(
            name, source_fd=source, queue_fd=self._queue, where=where, box=self.address.folder, file=file, reason=reason
        )

    def dissolve(self, reason: str) -> int:
        """Ends the mailbox: what waits or is claimed in it goes to the dead letters. Returns how many."""
        moved = 0
        # RACE: a sender that opened it earlier may publish until the very end. The folder is removed only when it is empty,
        # and a publication into a removed folder fails and is reported to the sender.
        while True:
            moved += sum(self._keep(self._new, name, name, set_aside.DEAD, reason) for name in vanishing.names(self._new))
            for name in vanishing.names(self._claimed):
                claimer, _, file = name.partition(".")
                if claimer == _MARK:
                    files.remove(name, dir_fd=self._claimed)
                    continue
                moved += self._keep(self._claimed, name, file if is_id(claimer) and file else name, set_aside.DEAD, reason)
            if self._remove_folders():
                return moved

    def _remove_folders(self) -> bool:
        try:
            for name in (NEW, CLAIMED):
                vanishing.remove(name, dir_fd=self._root)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                return False
            raise
        with suppress(FileNotFoundError):
            files.remove(BELL, dir_fd=self._bell)
        for name in (acknowledged.NAME, acknowledged.OLDER):
            files.remove(name, dir_fd=self._root)
        vanishing.remove(BELL, dir_fd=self._root)
        vanishing.remove(self.address.folder, dir_fd=self._queue)
        return True


def _close(handles: Handles, log: Acknowledged) -> None:
    log.close()
    handles.close()
