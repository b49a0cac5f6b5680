"""A thousand live instances: real processes, forked so that they are light, with their registrations, heartbeats and mailboxes.

The kernel gives a user 128 inotify instances, so most of them poll; that is part of the question.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.measure import folder, p50_p99, table, timed
from mnemo_coord import Coordinator, Event, EventKind, Fleet, Message

SMALL = 10
KILLS = 20
APART = 2.5
"""Seconds: by then everybody has looked at what the death before this one changed."""


class Crowd:
    """The processes, and a pipe on which they say when they registered and when a message reached them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.pids: list[int] = []
        self.out, self._into = os.pipe()
        self._unread = b""

    def grow(self, size: int) -> list[float]:
        """Starts processes, some at a time, until there are so many. Returns the seconds that each registration took."""
        took: list[float] = []
        while len(self.pids) < size:
            batch = min(20, size - len(self.pids))
            self.pids += [self._start() for _ in range(batch)]
            took += [float(word) for word in self.said("registered", batch)]
        return took

    def _start(self) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                self._live()
            finally:
                os._exit(1)
        return pid

    def _live(self) -> None:
        # Waited for, not handled: a handler may have to wait for the next signal if this one comes just before pause().
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        begun = time.monotonic()
        me = Coordinator(self.place)
        me.register()
        took = time.monotonic() - begun

        if not self.pids:  # the first one watches: those that come when the kernel's limit is reached cannot
            me.on_event(self._died)

        def received(message: Message) -> None:
            self._say("received", time.monotonic())

        me.on_message(received)
        self._say("registered", took)
        while True:
            signal.sigwait([signal.SIGUSR1])
            self._say("beat", _cpu_of(me.heartbeat))

    def _died(self, event: Event) -> None:
        if event.kind is EventKind.INSTANCE_DIED:
            self._say(f"died-{event.data['pid']}", time.monotonic())

    def _say(self, *words: object) -> None:
        os.write(self._into, (" ".join(map(str, words)) + "\n").encode())

    def said(self, kind: str, count: int, timeout: float = 120.0) -> list[str]:
        found: list[str] = []
        deadline = time.monotonic() + timeout
        while len(found) < count and time.monotonic() < deadline:
            self._unread += os.read(self.out, 65536)
            *lines, self._unread = self._unread.split(b"\n")
            found += [line.decode().split()[1] for line in lines if line.startswith(kind.encode())]
        return found

    def beat_cost(self) -> float:
        """CPU seconds of one heartbeat of one of them, the median of 50."""
        costs = []
        for _ in range(50):
            os.kill(self.pids[0], signal.SIGUSR1)
            costs += self.said("beat", 1)
        return statistics.median(map(float, costs))

    def arrivals(self, count: int) -> list[float]:
        return sorted(float(word) for word in self.said("received", count))

    def cpu(self) -> float:
        """CPU seconds of all of them so far."""
        ticks = 0
        for pid in self.pids:
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.pids.remove(pid)

    def end(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)


def _cpu_of(call) -> float:
    before = time.thread_time()
    call()
    return time.thread_time() - before


def run(*, quick: bool) -> None:
    size, idle = (60, 2) if quick else (int(os.environ.get("CROWD", "1000")), 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, hard), hard))
    logging.disable(logging.WARNING)  # nine hundred of them say that they poll
    with folder() as place:
        with Fleet.open(place / ".mnemosyne") as fleet:  # imports everything before the first fork
            fleet.broadcast("Warm", sender="bench")
        crowd = Crowd(place / ".mnemosyne")
        try:
            crowd.grow(SMALL)
            few = crowd.beat_cost()
            few_list = statistics.median(timed(_listed(place), 15))
            took = crowd.grow(size)
            _report(crowd, size, idle, few, few_list, took, quick=quick)
        finally:
            crowd.end()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _listed(place: Path):
    argv = [str(Path(sys.executable).parent / "mnemosyne"), "--dir", str(place / ".mnemosyne"), "list", "--json"]
    # As it is where it was installed: its modules are compiled. A checkout may forbid Python to keep them compiled.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(place / "compiled")
    listed = lambda: json.loads(subprocess.run(argv, capture_output=True, check=True, env=env).stdout)  # noqa: E731
    listed()
    return listed


def _report(crowd: Crowd, size: int, idle: int, few: float, few_list: float, took: list[float], *, quick: bool) -> None:
    apart = 0.1 if quick else APART
    time.sleep(2 * apart)  # what came with the last registrations is over
    many = crowd.beat_cost()
    whole = statistics.median(timed(_listed(crowd.place.parent), 15))
    bare = statistics.median(timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), 15))
    assert len(_listed(crowd.place.parent)()) == size
    before = crowd.cpu()
    time.sleep(idle)
    used = (crowd.cpu() - before) / idle
    sent, all_there, woken = _broadcast(crowd, size)
    raw = statistics.median(timed(lambda: _named(crowd.place / "coordination_queue"), 3))
    single = _deaths(crowd, 2 if quick else 8, apart)
    seen = _deaths(crowd, 5 if quick else KILLS)
    last = took[-100:]
    rows = [
        ("registering, the last hundred of them, 20 at a time", p50_p99(last)),
        (f"heartbeat, CPU, at {SMALL} / at {size}", f"{1e6 * few:.0f} / {1e6 * many:.0f} us: {many / few:.2f}x"),
        (f"list, whole process, at {SMALL} / at {size}", f"{1e3 * few_list:.0f} / {1e3 * whole:.0f} ms"),
        ("… over python -c pass beside it", f"{1e3 * bare:.0f} ms: {whole / bare:.1f}x"),
        ("idle, all of them together", f"{100 * used:.1f} % of a core"),
        ("broadcast: the last has it in its mailbox, first time / again", f"{1e3 * sent:.0f} / {1e3 * all_there:.0f} ms"),
        ("… over nothing but a link and a touch for each", f"{1e3 * raw:.0f} ms: {sent / raw:.1f}x / {all_there / raw:.1f}x"),
        ("… until 100 have handled it / all have (most of them poll)", f"{1e3 * woken[0]:.0f} / {1e3 * woken[1]:.0f} ms"),
        (f"kill -9 until a watching peer is called back, one in {apart} s", p50_p99(single)),
        ("… one after another", p50_p99(seen)),
    ]
    table(f"{size} live instances, each a process", rows)


def _broadcast(crowd: Crowd, size: int) -> tuple[float, float, tuple[float, float]]:
    """Seconds until the last has it in its mailbox, from a fresh program and from one that knows them all."""
    with Fleet.open(crowd.place) as fleet:
        found = []
        for _ in range(4):
            begun = time.monotonic()
            receipt = fleet.broadcast("News", {"n": 1}, sender="bench")
            found.append(time.monotonic() - begun)
            assert len(receipt.delivered) == size, receipt.failed
            arrived = [at - begun for at in crowd.arrivals(size)]
            woken = (arrived[min(99, len(arrived) - 1)], arrived[-1])
    return found[0], statistics.median(found[1:]), woken


def _named(queue: Path) -> None:
    """What the kernel has to do for a broadcast, and nothing else. Names that begin with a dot are no messages."""
    source = queue / "tmp" / ".raw"
    source.touch()
    boxes = [box for box in queue.iterdir() if (box / "bell" / "bell").exists()]
    for box in boxes:
        os.link(source, box / "new" / f".raw-{time.monotonic_ns()}")
    for box in boxes:
        os.utime(box / "bell" / "bell")
    source.unlink()


def _deaths(crowd: Crowd, kills: int, apart: float = 0.0) -> list[float]:
    delays = []
    for _ in range(kills):
        time.sleep(apart)
        victim = random.choice(crowd.pids[1:])
        begun = time.monotonic()
        crowd.kill(victim)
        delays.append(float(crowd.said(f"died-{victim}", 1)[0]) - begun)
    return delays
