"""Being woken by the kernel when something changes, and knowing when that no longer works.

A notification is a hint, never the guarantee: whoever waits also polls. What is watched are quiet folders: bells, which are
touched, and lock files, which are closed when their owner ends. Folders that receive messages are not watched; watchdog
needs about 0.2 ms of Python for each event and the kernel's queue overflows under a burst.

Watchdog fails silently in ways that were measured: an exception in a handler ends its thread, a watched folder that is
deleted or renamed away stays "watched". `Watch.mend` compares what should be watched with what is, and arms it anew.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord.disk import files

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Change", "Watch"]

_PATIENCE: Final = 2.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 60.0
"""Seconds: until the end of a watch is no longer waited for, and between two tries to begin one."""
_log = logging.getLogger(__name__)


class Change(StrEnum):
    """What to be woken by."""

    CLOSED = "closed"
    """A file in the folder that was open for writing has been closed."""
    TOUCHED = "touched"
    """A file in the folder got a new time or content."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    path: str
    change: Change
    wake: Callable[[str], None]


class Watch:
    """Watches folders with one watchdog observer; says once when it cannot and leaves the rest to the poll."""

    def __init__(self) -> None:
        self._wanted: list[_Wanted] = []
        self._armed: dict[str, tuple[Any, Any, tuple[int, int]]] = {}
        self._observer: Any = None
        self._sentinel: tuple[int, tuple[int, int] | None] = (-1, None)
        self._told = False
        self._again_at = float("-inf")
        self._pause = _FIRST_PAUSE

    @property
    def degraded(self) -> bool:
        """True while something that should be watched is not."""
        return any(wanted.path not in self._armed for wanted in self._wanted)

    def add(self, path: str, change: Change, wake: Callable[[str], None]) -> None:
        """Calls ``wake`` with the name of each file that changes so in the folder ``path``.

        ``wake`` runs in watchdog's thread and must do next to nothing.
        """
        self._wanted.append(_Wanted(path, change, wake))
        self.mend()

    def drop(self, path: str) -> None:
        """Stops watching a folder."""
        self._wanted = [wanted for wanted in self._wanted if wanted.path != path]
        armed = self._armed.pop(path, None)
        if armed and self._observer:
            self._observer.unschedule(armed[0])

    def mend(self) -> None:
        """Arms whatever should be watched and is not. Cheap when all is well."""
        if self._observer is not None and not self._is_sound():
            # Not stopped: it would write to descriptors that may be somebody else's by now.
            self._observer, self._armed = None, {}
        for wanted in self._wanted:
            # At the kernel's limit each try costs a millisecond and more threads: nine hundred instances would do little else.
            if not self._is_armed(wanted) and time.monotonic() >= self._again_at:
                self._arm(wanted)

    def is_armed(self) -> bool:
        """Whether `mend` would have nothing to do now."""
        if self._observer is not None and not self._is_sound():
            return False
        return all(self._is_armed(wanted) for wanted in self._wanted) or time.monotonic() < self._again_at

    def _is_armed(self, wanted: _Wanted) -> bool:
        armed = self._armed.get(wanted.path)
        return armed is not None and armed[1].is_alive() and armed[2] == _identity(wanted.path)

    def _arm(self, wanted: _Wanted) -> None:
        try:
            stale = self._armed.pop(wanted.path, None)
            if stale:
                self._observer.unschedule(stale[0])
            identity = _identity(wanted.path)
            if identity is None:
                return
            self._armed[wanted.path] = (*self._schedule(wanted), identity)
            self._told, self._pause = False, _FIRST_PAUSE
        except (OSError, KeyError) as error:
            self._complain(wanted.path, error)
            self._again_at = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _schedule(self, wanted: _Wanted) -> tuple[Any, Any]:
        from watchdog.events import FileAttribEvent, FileClosedEvent, FileModifiedEvent

        if self._observer is None:
            files.close_if_same(*self._sentinel)
            sentinel = os.memfd_create("mnemo-watch")
            self._sentinel = (sentinel, files.identity(sentinel))
            self._observer = _start_observer()
        kinds = [FileClosedEvent] if wanted.change is Change.CLOSED else [FileModifiedEvent, FileAttribEvent]
        watch = self._observer.schedule(_handler(wanted.wake), wanted.path, recursive=False, event_filter=kinds)
        emitter = next(emitter for emitter in self._observer.emitters if emitter.watch == watch)
        return watch, emitter

    def _complain(self, path: str, error: BaseException) -> None:
        if not self._told:
            _log.warning("The kernel cannot notify us of changes in %s (%s): polling instead", path, error)
        self._told = True

    def stop(self) -> None:
        """Ends the observer's threads."""
        sound = self._observer is not None and self._is_sound()
        observer, self._observer, self._armed, self._wanted = self._observer, None, {}, []
        if sound:
            # Stopping waits, without an end, for a thread that is woken through a pipe: leaving must not depend on it.
            stopping = threading.Thread(target=_end, args=[observer], name="mnemo-unwatch", daemon=True)
            stopping.start()
            stopping.join(_PATIENCE)
        files.close_if_same(*self._sentinel)

    def _is_sound(self) -> bool:
        """Whether the observer works. It does not notice that somebody closed its descriptors, so one of ours stands guard."""
        return self._observer.is_alive() and files.identity(self._sentinel[0]) == self._sentinel[1]


def _start_observer() -> Any:
    from watchdog.observers import Observer

    observer = Observer()  # raises OSError at the kernel's limit of inotify instances (128 for each user)
    observer.daemon = True
    observer.start()
    return observer


def _end(observer: Any) -> None:
    try:
        observer.stop()
        observer.join(_PATIENCE)
    except (OSError, RuntimeError) as error:
        _log.debug("The observer could not be stopped: %s", error)


def _handler(wake: Callable[[str], None]) -> Any:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            # An exception here would end watchdog's thread, and nothing would say so.
            try:
                wake(os.path.basename(os.fsdecode(event.src_path)))
            except Exception:
                _log.exception("A wake-up failed")

    return Handler()


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino
