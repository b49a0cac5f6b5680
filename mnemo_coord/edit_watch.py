"""The edit watch: a thread that says what is being changed in one checkout, and to whom it matters.

Woken by the kernel when something in a folder of the checkout changes, or in its git folder (a commit, a checkout, a reset), it
waits until that has settled, asks git, and writes ``edits/<id>.json`` when the answer is another one. Where the kernel cannot
notify, git is asked at every poll. What is between two is for `holdings.edit_collisions` to say; events are published by both
(`holdings.edit_news`), and who came later sends the other one::

    ConflictNotification    {"kind": "edits", "branch", "severity", "reason", "files"}
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import locks
from mnemo_coord.disk.folders import Folders
from mnemo_coord.holdings import edits
from mnemo_coord.holdings.edit_collisions import shown
from mnemo_coord.loops import Loop
from mnemo_coord.messages.message import CONFLICT_NOTIFICATION

if TYPE_CHECKING:
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.holdings.checkout import Checkout
    from mnemo_coord.holdings.edits import Edits
    from mnemo_coord.holdings.occupancy import BranchConflict

__all__ = ["EditWatch", "settled_in"]

_QUIET: Final = 0.1
_LONGEST: Final = 0.5
"""Seconds: git is asked when nothing has changed for so long, or when the first change is so old."""
_SELDOM: Final = 60.0
"""Seconds between two looks that nothing has asked for: events may be lost, and ``info/exclude`` lies elsewhere."""
_LOCK_PATIENCE: Final = 1.0
_TOLD_BYTES: Final = 200
"""Of files, and of the branch, in a message, which holds 1,024."""
_log = logging.getLogger(__name__)


def settled_in(now: float, first: float | None, last: float) -> float | None:
    """Seconds until git is to be asked, given when the first and the last change was noticed; None where there was none."""
    return None if first is None else max(0.0, min(last + _QUIET, first + _LONGEST) - now)


class EditWatch:
    """What one instance watches: one checkout at a time, or none."""

    def __init__(self, fleet: Fleet, instance_id: str) -> None:
        self._fleet = fleet
        self._id = instance_id
        self._news = fleet.edit_news  # made before there are threads that would each make one
        self._watching: _Watching | None = None
        self._lock = threading.Lock()
        self._over = False

    @property
    def active(self) -> bool:
        """Whether a checkout is watched."""
        return self._watching is not None

    def watch(self, folder: str | os.PathLike[str]) -> Callable[[], None]:
        """Watches the checkout around a folder, in place of any other. Returns the function that ends it.

        Raises:
            errors.NotFound: there is none.
            errors.Command: git is missing, too old, or refuses.
            errors.TimedOut: git took too long.
        """
        from mnemo_coord.holdings.checkout import Checkout

        watching = _Watching(self._fleet, self._id, Checkout.around(folder))
        with self._lock:
            before, self._watching = self._watching, watching
            if before is not None:
                before.stop()
            if not self._over:
                watching.start()
        return lambda: self._end(watching)

    def _end(self, watching: _Watching) -> None:
        with self._lock:
            if self._watching is not watching:
                return
            self._watching = None
            watching.stop()
            with suppress(OSError, errors.State):
                edits.remove(self._fleet.state, self._id)
            self._news.forget(self._id)

    def stop(self) -> None:
        """Ends it for good; the record is left to whoever leaves."""
        with self._lock:
            self._over = True
            if self._watching is not None:
                self._watching.stop()


class _Watching:
    """One checkout that is watched. Its methods run in its loop, but for `ring`, `start` and `stop`."""

    def __init__(self, fleet: Fleet, instance_id: str, checkout: Checkout) -> None:
        self._fleet = fleet
        self._id = instance_id
        self._checkout = checkout
        self._news = fleet.edit_news
        self._folders = Folders(self.ring)
        self._loop = Loop("watch of edits", self._step)
        self._first: float | None = None
        self._last = 0.0
        self._survey = True
        """Whether something changed that may have changed which folders are to be watched."""
        self._look_at = self._arm_at = float("-inf")
        self._complained = self._stopping = False
        self._branch: str | None = None
        self._written: tuple[Edits, str] | None = None
        """The record, and the key that it is signed with."""

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Ends it; a git that hangs is ended, not waited for."""
        self._stopping = True
        self._checkout.end()
        self._loop.stop()
        self._folders.stop()

    def ring(self, folder: str, name: str, is_folder: bool) -> None:
        """Something changed. Called by the kernel's reader for each event, so it does next to nothing."""
        self._last = time.monotonic()
        if self._first is None:
            self._first = self._last
        if is_folder or name == ".gitignore" or folder == self._checkout.git_dir:
            self._survey = True
        self._loop.wake()

    def _step(self) -> float:
        now, poll = time.monotonic(), self._fleet.settings.poll_interval
        settling = settled_in(now, self._first, self._last)
        if settling:
            return settling
        blind = not self._folders.sound
        if settling is not None or now >= self._look_at or blind:
            self._look_at = float("-inf")  # when it fails it is tried again, not only in a minute
            try:
                self._look(blind=blind)
            except errors.Command:
                if not self._stopping:
                    raise
            self._look_at = now + _SELDOM
        elif self._written is not None:
            self._say(self._written[0])
        return poll

    def _look(self, *, blind: bool) -> None:
        # RACE: forgotten before git is asked, so that what changes meanwhile has it asked again.
        self._first, survey, self._survey = None, self._survey or blind, False
        if not os.path.isdir(self._checkout.root):
            self._folders.stop()
            self._say(self._draw_up([]))
            return
        try:
            if survey:
                self._branch = self._checkout.branch()
                self._arm()
            changed = self._checkout.changed()
        except BaseException:
            self._survey = True
            raise
        self._say(self._draw_up(changed))

    def _draw_up(self, changed: list[str]) -> Edits:
        return edits.drawn_up(self._id, self._checkout.root, self._checkout.repository, self._branch, changed)

    def _arm(self) -> None:
        """Watches the folders that are worth it, or, where there are too many or the kernel refuses, none for a minute."""
        if not self._folders.sound and time.monotonic() < self._arm_at:
            return
        try:
            root = self._checkout.root
            again = True
            while again and not self._stopping:
                wanted = {os.path.join(root, folder).rstrip("/") or "/" for folder in self._checkout.folders()}
                # RACE: a folder that was made while its parent was not watched yet is found when we look again.
                again = self._folders.watch({*wanted, self._checkout.git_dir})
            self._complained = False
        except OSError as error:
            self._folders.stop()
            self._arm_at = time.monotonic() + _SELDOM
            if not self._complained:
                _log.warning("The kernel cannot notify us of edits in %s (%s): polling instead", self._checkout.root, error)
            self._complained = True

    def _say(self, said: Edits) -> None:
        """Writes down what is changed if it is news, or the record is gone, and tells those that it is between."""
        key = self._fleet.signer.key_id
        if self._written == (said, key) and edits.is_there(self._fleet.state, self._id):
            found = self._news.tell(said)  # somebody may have joined the branch
        else:
            found = self._write(said)
            self._written = (said, key)
        for one in found:
            self._notify(one)

    def _write(self, said: Edits) -> list[BranchConflict]:
        """Returns what has come to be between this one and others."""
        with ExitStack() as stack:
            with suppress(errors.TimedOut):  # then both may send
                stack.enter_context(locks.hold(self._fleet.state, "edits", _LOCK_PATIENCE))
            # RACE: who is first in the lock says nothing; who is second finds the other's record, and sends.
            self._news.hear_all()
            found = self._news.tell(said)
            if not self._stopping:
                edits.write(self._fleet.state, self._fleet.signer, said)
        return found

    def _notify(self, found: BranchConflict) -> None:
        with suppress(errors.CoordinationError):  # it may be gone
            self._fleet.send(found.other, CONFLICT_NOTIFICATION, _payload(found), sender=self._id)


def _payload(found: BranchConflict) -> dict[str, Any]:
    reason = found.reason.removeprefix(f"{found.other} ")
    told = f"{found.instance_id} is changing the same files as you" if reason.startswith("is ") else ""
    return {
        "kind": str(found.kind),
        "branch": next(iter(_some([found.branch]))),
        "severity": str(found.severity),
        "reason": told or f"{found.instance_id} is changing files that you hold on this branch",
        "files": _some(shown(found).files),
    }


def _some(texts: Iterable[str]) -> list[str]:
    """As many as fit, as they are encoded."""
    told: list[str] = []
    room = _TOLD_BYTES
    for text in texts:
        room -= len(json.dumps(text, ensure_ascii=False).encode())
        if room < 0:
            return [*told, "…"]
        told.append(text)
    return told
