"""Being woken when anything changes in any of many folders, with one thread for all of them.

`watch.Watch` costs a thread for each folder, because watchdog's observer does: 2,000 took two seconds and 50 MB. Its reader of
the kernel's events is asked here directly. It also spares us the half second for which the observer holds back a file that was
renamed away. As there, a notification is a hint: whoever waits also looks now and then.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from mnemo_coord.disk import files

__all__ = ["Folders"]

_PATIENCE: Final = 2.0
"""Seconds until the end of the thread is no longer waited for."""
_log = logging.getLogger(__name__)

Wake = Callable[[str, str, bool], None]
"""Called with the folder, the name in it, and whether that is a folder; with ``("", "", True)`` after events were lost."""


class Folders:
    """A set of folders, not with what is below them. Used by one thread; only ``wake`` is called by another."""

    def __init__(self, wake: Wake) -> None:
        self._wake = wake
        self._reader: Any = None
        self._sentinel: tuple[int, tuple[int, int] | None] = (-1, None)
        self._armed: dict[str, _Folder] = {}

    @property
    def sound(self) -> bool:
        """Whether changes are noticed. Somebody who closes our descriptors is not noticed by the reader: one stands guard."""
        return (
            self._reader is not None
            and self._reader.is_alive()
            and files.identity(self._sentinel[0]) == self._sentinel[1]
            and bool(self._armed)
        )

    def watch(self, paths: Iterable[str]) -> bool:
        """Watches exactly these folders. Those that are gone are left out; returns whether any was armed just now.

        Raises:
            OSError: the kernel refuses. Nothing is watched then.
        """
        try:
            if self._reader is None or not self.sound:
                self.stop()
                self._start()
            return self._arm(set(paths))
        except (ImportError, AttributeError, TypeError) as error:  # another watchdog than this was written for
            self.stop()
            raise OSError(f"watchdog has changed: {error}") from error
        except OSError:
            self.stop()
            raise

    def _start(self) -> None:
        from watchdog.observers.inotify_c import InotifyFD

        sentinel = os.memfd_create("mnemo-folders")
        self._sentinel = (sentinel, files.identity(sentinel))
        self._reader = InotifyFD()
        self._reader.daemon = True
        self._reader.start()

    def _arm(self, wanted: set[str]) -> bool:
        identities = {path: _identity(path) for path in wanted}
        # What is at another place now is dropped first: the kernel would give the same number for it again.
        gone = [path for path, one in self._armed.items() if identities.get(path) != one.identity or not one.armed]
        for path in gone:
            self._armed.pop(path).disarm(self._reader)
        missing = [path for path, identity in identities.items() if identity is not None and path not in self._armed]
        for path in missing:
            folder = _Folder(path, identities[path], self._wake)
            if folder.arm(self._reader):
                self._armed[path] = folder
        return bool(missing)

    def stop(self) -> None:
        """Watches nothing any more. Idempotent."""
        reader, self._reader, self._armed = self._reader, None, {}
        # Not where somebody has closed its descriptors: it would write to those that may be somebody else's by now.
        if reader is not None and files.identity(self._sentinel[0]) == self._sentinel[1] and reader.is_alive():
            reader.stop()
            if threading.current_thread() is not reader:
                reader.join(_PATIENCE)
        files.close_if_same(*self._sentinel)


class _Folder:
    """One of them; watchdog calls the methods that begin with ``on_``, in its thread."""

    def __init__(self, path: str, identity: tuple[int, int] | None, wake: Wake) -> None:
        self.path = path
        self.identity = identity
        self.armed = False
        self._wake = wake
        self._number: Any = None

    def arm(self, reader: Any) -> bool:
        """Returns whether it is still there.

        Raises:
            OSError: the kernel refuses.
        """
        try:
            self._number = reader.add_callback(os.fsencode(self.path), _mask(), self, id(self))
        except (FileNotFoundError, NotADirectoryError):
            return False
        if self._number == -1:
            raise PermissionError(13, "may not be watched", self.path)
        self.armed = True
        return True

    def disarm(self, reader: Any) -> None:
        if self.armed:
            reader.remove_callbacks([(self._number, id(self))])
        self.armed = False

    def on_event(self, event: Any) -> None:
        self._tell(os.fsdecode(event.name), is_folder=bool(event.is_directory))

    def on_watch_deleted(self, _number: Any) -> None:
        self.armed = False
        self._tell("", is_folder=True)

    def on_queue_overflow(self) -> None:
        self._wake("", "", True)

    def _tell(self, name: str, *, is_folder: bool) -> None:
        # An exception here would end watchdog's thread, and nothing would say so.
        try:
            self._wake(self.path, name, is_folder)
        except Exception:
            _log.exception("A wake-up failed")


def _mask() -> int:
    """Whatever changes a folder or a file in it. Not what reads them: git does, and would wake us for ever."""
    from watchdog.observers.inotify_c import InotifyConstants as Constants

    changes = Constants.IN_CLOSE_WRITE | Constants.IN_MODIFY | Constants.IN_ATTRIB
    names = Constants.IN_CREATE | Constants.IN_DELETE | Constants.IN_MOVE | Constants.IN_DELETE_SELF | Constants.IN_MOVE_SELF
    return int(changes | names | Constants.IN_ONLYDIR | Constants.IN_DONT_FOLLOW | Constants.IN_EXCL_UNLINK)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino
