"""One process of the soak: a writer or a reader. It writes what it does, and only that, into a file of its own.

Lines are ``KIND word …``, written by one append each before (``invoke``) or after (``ok``, ``fail``, ``got``, ``done``) the
fact, so a process that is killed leaves at most one fact unknown. Never through the system under test.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from mnemo_coord import Coordinator, Fleet, Settings, errors
from mnemo_coord.disk.clock import SystemClock

SETTINGS = Settings(heartbeat_interval=0.5, poll_interval=0.5, max_deliveries=1000)


class SteppingClock(SystemClock):
    """A wall clock that somebody sets: SIGUSR2 moves it by up to an hour, back or forth."""

    offset_ns = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.offset_ns

    def step(self, _number: int, _frame: FrameType | None) -> None:
        self.offset_ns = random.randrange(-3600, 3600) * 1_000_000_000


class Journal:
    """See the module."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, *words: Any) -> None:
        os.write(self._fd, (" ".join(map(str, words)) + "\n").encode())


def main() -> None:
    # Unheeded until it can be obeyed: it would end a process that has just registered, and nobody would have killed it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    kind, state_dir, journal_path, key = sys.argv[1:]
    journal, clock = Journal(journal_path), SteppingClock()
    signal.signal(signal.SIGUSR2, clock.step)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    me = _join(state_dir, kind, key, clock, stopping, journal)
    signal.signal(signal.SIGUSR1, lambda *_: _kill_the_watcher(me))
    journal.note("joined", me.instance_id, os.getpid())
    (write if kind == "writer" else read)(me, journal, key, stopping)
    own_id = me.instance_id
    journal.note("leaving", own_id)
    me.unregister()
    journal.note("left")
    with Fleet.open(state_dir, create=False) as fleet:
        if own_id in fleet.registry.read():  # the disk is full, and it could not be taken out
            journal.note("left-behind", os.getpid(), time.monotonic_ns())


def _join(state_dir: str, kind: str, key: str, clock: SteppingClock, stopping: list[int], journal: Journal) -> Coordinator:
    me = Coordinator(state_dir, name=key, roles=["reader"] if kind == "reader" else [], settings=SETTINGS, clock=clock)
    while True:
        if stopping:  # the disk may be full for as long as there are others, and then what was begun is not taken back either
            journal.note("left-behind", os.getpid(), time.monotonic_ns())
            raise SystemExit
        try:
            me.register()
        except (errors.CoordinationError, OSError):  # the state directory is away, full, or our name's holder is dying
            time.sleep(0.05)
        else:
            return me


def _kill_the_watcher(me: Coordinator) -> None:
    """As an exception in a handler would: watchdog's thread ends, and nobody says so."""
    watch = me._member._watch if me._member else None  # type: ignore[union-attr]
    if watch is not None and watch._observer is not None:
        watch._observer.unschedule_all()


def write(me: Coordinator, journal: Journal, key: str, stopping: list[int]) -> None:
    """To the shared mailbox, and to one that a single reader has: there the order is checked."""
    for number in itertools.count():
        if stopping:
            return
        address = "@reader" if number % 2 else "sink"
        which = f"{me.instance_id} {number}"
        journal.note("invoke", which, address)
        try:
            # Now and then under an id of its own, and twice: it stays one message.
            message_id = f"{me.instance_id}-{number}" if number % 10 == 1 else None
            for _ in range(2 if message_id else 1):
                me.send(address, "Work", {"from": me.instance_id, "n": number}, message_id=message_id)
        except errors.Unknown:
            journal.note("info", which)
        except (errors.CoordinationError, OSError) as error:
            # The second of two may fail when the first has arrived.
            journal.note("info" if message_id else "fail", which, type(error).__name__)
            time.sleep(0.02)
        else:
            journal.note("ok", which)
        time.sleep(0.004)


def read(me: Coordinator, journal: Journal, key: str, stopping: list[int]) -> None:
    """Handles what comes, and now and then fails at it; one of them also competes for a lamp and counts under it."""
    while not stopping:
        try:
            for delivery in me.receive(timeout=0.2):
                message = delivery.message
                number = f"{message.payload['from']} {message.payload['n']}"
                journal.note("got", delivery.address, number, delivery.delivery)
                if random.random() < 0.02:
                    delivery.give_back()
                    journal.note("gave", number)
                    continue
                delivery.acknowledge()
                journal.note("done", number)
        except (errors.CoordinationError, OSError):
            time.sleep(0.02)
        _count(me, journal)


def _count(me: Coordinator, journal: Journal) -> None:
    """A counter that is not atomic, under a claim: lost updates and two holders at once would show."""
    try:
        with me.claim("lamp") as lamp:
            journal.note("holds", lamp.epoch, time.monotonic_ns())
            path = sys.argv[3].rpartition("/")[0] + "/counter"
            count = int(Path(path).read_text() or 0) if os.path.exists(path) else 0
            time.sleep(random.random() * 0.002)
            if lamp.is_held():
                with open(f"{path}.{os.getpid()}", "w") as stream:
                    stream.write(str(count + 1))
                os.replace(f"{path}.{os.getpid()}", path)
                journal.note("counted", lamp.epoch, count + 1)
            journal.note("drops", lamp.epoch, time.monotonic_ns())
    except (errors.CoordinationError, OSError):
        pass


if __name__ == "__main__":
    main()
