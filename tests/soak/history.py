"""The checker: what the workers wrote down, held against what was promised (guarantees.md)."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["History", "check"]

Key = tuple[str, int]
"""The sender and its number of a message."""


@dataclass
class History:
    """Everything that was written down."""

    invoked: set[Key] = field(default_factory=set)
    accepted: set[Key] = field(default_factory=set)
    refused: set[Key] = field(default_factory=set)
    got: list[tuple[str, str, Key, int]] = field(default_factory=list)
    """Journal, address, message and number of the delivery, in the order of each journal."""
    done: Counter[Key] = field(default_factory=Counter)
    holds: list[tuple[int, int, int | None, int]] = field(default_factory=list)
    """Begin and end (None: killed) of a hold of the lamp by the monotonic clock, its epoch in between, and the process."""
    counted: list[int] = field(default_factory=list)
    joined: set[int] = field(default_factory=set)
    """Processes that had registered."""
    left_behind: dict[int, int] = field(default_factory=dict)
    """Processes that ended and could not take back their entry from a full disk, and when: it is found dead, which they are."""

    @classmethod
    def read(cls, folder: Path) -> History:
        found = cls()
        for path in sorted(folder.glob("*.journal")):
            found._add(path)
        return found

    def _add(self, path: Path) -> None:
        pid, begun = 0, None
        # A process that is killed may leave its last line half written.
        for line in path.read_text().rpartition("\n")[0].splitlines():
            kind, *words = line.split()
            if kind == "joined":
                pid = int(words[1])
                self.joined.add(pid)
            elif kind == "left-behind":
                self.left_behind[int(words[0])] = int(words[1])
            elif kind in {"invoke", "ok", "fail", "done"}:
                self._fact(kind, (words[0], int(words[1])))
            elif kind == "got":
                self.got.append((path.stem, words[0], (words[1], int(words[2])), int(words[3])))
            elif kind == "holds":
                begun = (int(words[1]), int(words[0]))
            elif kind == "counted":
                self.counted.append(int(words[1]))
            elif kind == "drops" and begun:
                self.holds.append((begun[0], begun[1], int(words[1]), pid))
                begun = None
        if begun:
            self.holds.append((begun[0], begun[1], None, pid))

    def _fact(self, kind: str, key: Key) -> None:
        if kind == "done":
            self.done[key] += 1
        else:
            {"invoke": self.invoked, "ok": self.accepted, "fail": self.refused}[kind].add(key)


def check(history: History, pending: set[Key], killed_at: dict[int, int], final_count: int) -> dict[str, list[str]]:
    """Every promise with what breaks it; empty lists are what one wants to see.

    ``pending`` is what was still there at the end, ``killed_at`` when the nemesis killed each process.
    """
    received = {key for _, _, key, _ in history.got}
    return {
        "lost: accepted, and neither handed out nor there": _shown(history.accepted - received - pending),
        "invented: handed out, and never sent": _shown((received | pending) - history.invoked),
        "refused to the sender, and handed out all the same": _shown(history.refused & (received | pending)),
        "acknowledged twice": _shown({key for key, times in history.done.items() if times > 1}),
        "handed out twice under one number": _unmarked(history),
        "out of order for one sender": _disordered(history),
        "held by two at once, or at a falling epoch": _overlapping(history, killed_at),
        "updates lost under a claim": _lost_updates(history, final_count),
    }


def _shown(keys: set[Key]) -> list[str]:
    return [f"{sender}#{number}" for sender, number in sorted(keys)]


def _unmarked(history: History) -> list[str]:
    times = Counter((key, delivery) for _, _, key, delivery in history.got)
    return [f"{key} delivery {delivery}" for (key, delivery), count in times.items() if count > 1]


def _disordered(history: History) -> list[str]:
    """In a mailbox with one receiver, first deliveries of one sender rise."""
    last: dict[tuple[str, str], int] = defaultdict(lambda: -1)
    found = []
    for journal, address, (sender, number), delivery in history.got:
        if address == "sink" and delivery == 1:
            if number <= last[journal, sender]:
                found.append(f"{sender}#{number} after #{last[journal, sender]} at {journal}")
            last[journal, sender] = number
    return found


def _overlapping(history: History, killed_at: dict[int, int]) -> list[str]:
    holds = sorted(history.holds)
    found = []
    for (_, epoch, end, pid), (begin, next_epoch, _, _) in itertools.pairwise(holds):
        over = killed_at.get(pid) if end is None else end
        if over is None or over > begin:
            found.append(f"epoch {epoch} of {pid} is not over at {begin}")
        if next_epoch <= epoch:
            found.append(f"epoch {next_epoch} after {epoch}")
    return found


def _lost_updates(history: History, final_count: int) -> list[str]:
    repeated = [f"{count} twice" for count, times in Counter(history.counted).items() if times > 1]
    # One that was killed between the count and its line has counted all the same.
    return repeated + (
        [f"{len(history.counted)} counts, and {final_count} in the end"] if final_count < len(history.counted) else []
    )
