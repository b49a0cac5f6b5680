"""Bells: which folders of the state directory wake a loop, and which of their files rang since the last look.

The kernel's word is a hint (`watch`): whoever is woken also polls, and `Versions` tells a poll what has changed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from mnemo_coord import errors
from mnemo_coord.disk.state_dir import StateDir
from mnemo_coord.disk.watch import Change, Watch

__all__ = ["Bells", "Versions"]


class Bells:
    """What one loop is woken by. Used by that loop; only the ringing comes from other threads."""

    def __init__(self, state: StateDir, watch: Watch, wake: Callable[[], None]) -> None:
        self._state = state
        self._watch = watch
        self._wake = wake
        self._rung: dict[str, deque[str]] = {}

    def heed(self, folder: str, change: Change, *, wanted: bool) -> None:
        """Begins or ends to be woken by the files of a folder. Idempotent."""
        if wanted == (folder in self._rung):
            return
        path = str(self._state.path / folder)
        if wanted:
            with suppress(OSError, errors.State):  # on a full disk it is made later, by who needs it
                self._state.folder(folder)
            rung: deque[str] = deque()

            def ring(name: str) -> None:
                rung.append(name)
                self._wake()

            self._rung[folder] = rung
            self._watch.add(path, change, ring)
        else:
            self._watch.drop(path)
            del self._rung[folder]

    def rung(self, folder: str) -> list[str]:
        """The files of a folder that rang since the last call, each once."""
        rung = self._rung.get(folder, ())
        return list(dict.fromkeys(rung.popleft() for _ in range(len(rung)))) if rung else []


class Versions:
    """Which files of a folder are other ones than at the last look."""

    def __init__(self, state: StateDir, folder: str) -> None:
        self._state = state
        self._folder = folder
        self._settled: dict[str, tuple[int, int]] = {}

    def look(self, read: Callable[[Iterable[str]], set[str]]) -> set[str]:
        """Has the files that changed read, and returns the names of all that are there.

        ``read`` returns those that it could read; the others are offered again next time.
        """
        names = self._state.listing(self._folder)
        versions = {name: self._version(name) for name in names}
        changed = {name for name in names if versions[name] != self._settled.get(name)}
        # RACE: looked at before it is read: what is written in between is read now, and once more at the next look. What could
        # not be read, for want of descriptors or of the fleet's new key, is tried again then, too.
        settled = (set(names) - changed) | read(changed)
        self._settled = {name: versions[name] for name in settled}
        return set(names)

    def _version(self, name: str) -> tuple[int, int]:
        """Changes whenever the file does, and is cheaper than reading it; zeros where it is gone."""
        try:
            status = os.stat(name, dir_fd=self._state.folder(self._folder), follow_symlinks=False)
        except OSError:
            return (0, 0)
        return status.st_ino, status.st_mtime_ns
