"""A tree of processes: all that came of a start, found by proof, and ended without ever hitting a stranger.

A process belongs to a start if its environment has the number that was drawn for it (``MNEMOSYNE_START=<number>.<service>``),
if it is in the session of one that has, or of a recorded leader that still is that very process, or if it is a child of one of
these. So what changes its session, what clears its environment and what loses its parents is found, unless it does all three at
once. Process numbers are used again, so each is named with the time at which it started, and signals go through a pidfd, which
cannot come to mean another process.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["VARIABLE", "Ending", "Process", "end", "members", "offspring", "send", "tag"]

VARIABLE: Final = "MNEMOSYNE_START"
_KILL_PATIENCE: Final = 10.0
"""Seconds after SIGKILL: the kernel may be busy with a dump or a dying disk."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, as it was seen."""

    pid: int
    start_time: int
    """Clock ticks after boot at which it started."""
    parent: int
    session: int
    is_zombie: bool
    command: str


def members(
    start_id: str, leaders: Mapping[int, int], service: str | None = None, adopted_by: int | None = None
) -> list[Process]:
    """All processes that belong to a start, or to one of its services, and still run.

    ``leaders`` are recorded process numbers and their start times. ``adopted_by`` is a process whose children belong to it as
    well: the launcher, to which orphans come. The calling process is never among them.
    """
    seen = {one.pid: one for one in _all()}
    seen.pop(os.getpid(), None)
    tagged = {pid for pid in seen if _is_tagged(pid, start_id, service)}
    proved = {pid for pid, started in leaders.items() if pid in seen and seen[pid].start_time == started}
    found = tagged | proved | {pid for pid, one in seen.items() if adopted_by is not None and one.parent == adopted_by}
    sessions = proved | {seen[pid].session for pid in tagged}
    found |= {pid for pid, one in seen.items() if one.session in sessions}
    while True:
        more = {pid for pid, one in seen.items() if one.parent in found and pid not in found}
        if not more:
            return [seen[pid] for pid in sorted(found) if not seen[pid].is_zombie]
        found |= more


def _all() -> Iterable[Process]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                yield _read(int(name))


def _read(pid: int) -> Process:
    before, _, after = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")
    fields = after.split(None, 20)
    return Process(
        pid=pid,
        start_time=int(fields[19]),
        parent=int(fields[1]),
        session=int(fields[3]),
        is_zombie=fields[0] in {b"Z", b"X"},
        command=before.partition(b"(")[2].decode(errors="replace"),
    )


def tag(start_id: str, service: str) -> str:
    """What the variable is set to for a service of a start."""
    return f"{start_id}.{service}"


def _is_tagged(pid: int, start_id: str, service: str | None) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    begin = f"{VARIABLE}={start_id}.{service or ''}".encode()
    return any(entry == begin if service else entry.startswith(begin) for entry in environ.split(b"\0"))


class Ending:
    """Ends what it is shown, a look at a time: SIGTERM at first sight, SIGKILL after ``grace`` seconds."""

    def __init__(self, grace: float) -> None:
        self._grace = grace
        self._asked: set[tuple[int, int]] = set()
        self._begun = time.monotonic()

    @property
    def _waited(self) -> float:
        return time.monotonic() - self._begun

    @property
    def pause(self) -> float:
        """Seconds after which to look again, if nothing ends before."""
        return min(0.1, max(0.01, self._grace - self._waited))

    @property
    def is_in_vain(self) -> bool:
        """Whether SIGKILL was sent long ago."""
        return self._waited > self._grace + _KILL_PATIENCE

    def hurry(self) -> None:
        """Sends SIGKILL from now on."""
        self._begun = min(self._begun, time.monotonic() - self._grace - 0.001)

    def ask(self, found: Iterable[Process]) -> None:
        """Sends to each what is due."""
        kills = self._waited > self._grace
        for one in found:
            who = (one.pid, one.start_time)
            if kills:
                send(*who, signal.SIGKILL)
            elif who not in self._asked:
                self._asked.add(who)
                send(*who, signal.SIGTERM, signal.SIGCONT)  # what is stopped would not see it


def end(
    find: Callable[[], list[Process]],
    grace: float,
    *,
    between: Callable[[], None] = lambda: None,
    hurry: Callable[[], bool] = lambda: False,
) -> list[Process]:
    """Ends what is found, over and over until nothing is: SIGTERM first, SIGKILL after ``grace`` seconds or when in a hurry.

    ``between`` is called between two looks, so that a parent can fetch what its dead children leave. Returns what could not be
    ended.
    """
    ending = Ending(grace)
    while found := find():
        if hurry():
            ending.hurry()
        if ending.is_in_vain:
            return found
        ending.ask(found)
        _await_one(found, ending.pause)
        between()
    return []


def offspring(first: Iterable[Process]) -> Callable[[], list[Process]]:
    """Finds, again and again, what still runs of these processes and of all that they have started since the last look."""
    known = {(one.pid, one.start_time) for one in first}

    def find() -> list[Process]:
        seen = {one.pid: one for one in _all()}
        seen.pop(os.getpid(), None)
        found = {pid for pid, one in seen.items() if (pid, one.start_time) in known}
        while more := {pid for pid, one in seen.items() if one.parent in found and pid not in found}:
            found |= more
        known.update((pid, seen[pid].start_time) for pid in found)
        return [seen[pid] for pid in sorted(found) if not seen[pid].is_zombie]

    return find


def send(pid: int, start_time: int, *numbers: signal.Signals) -> None:
    """Sends signals to the very process that started at that time; to nobody when that has ended, or is not ours to signal."""
    with suppress(ProcessLookupError, PermissionError):
        fd = os.pidfd_open(pid)
        try:
            # RACE: between the look and now another process may have got its number: the pidfd is compared, then used.
            if _read(pid).start_time == start_time:
                for number in numbers:
                    signal.pidfd_send_signal(fd, number)
        except (FileNotFoundError, ValueError, IndexError):
            pass  # it has ended meanwhile
        finally:
            os.close(fd)


def _await_one(processes: Iterable[Process], timeout: float) -> None:
    poll = select.poll()
    fds = []
    for one in processes:
        with suppress(OSError):
            fds.append(os.pidfd_open(one.pid))
            poll.register(fds[-1], select.POLLIN)
    try:
        poll.poll(timeout * 1000)
    finally:
        for fd in fds:
            os.close(fd)
