"""The soak for a minute, and that its checker finds what it is there to find."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from soak.history import History, check
from unit.kernel import unshare

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))


@pytest.mark.timeout(SECONDS + 120)
def test_a_minute_with_a_nemesis() -> None:
    """Q22, R18, I2, I4, I6, I12, I13, I14, I16."""
    prefix = unshare("-Urm", "--propagation", "private")
    argv = [*prefix, sys.executable, str(Path(__file__).parent), "--seconds", str(SECONDS)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.count("| **0** |") == 10
    assert "not possible here" not in done.stdout
    rows = dict(line.strip("| ").rsplit(" | ", 1) for line in done.stdout.splitlines() if " | " in line.strip("| "))
    number = {name: int(value.replace(",", "")) for name, value in rows.items() if value.replace(",", "").isdecimal()}
    assert number["accepted"] > 100 * SECONDS, "it worked, and did not only suffer"
    assert number["nemesis: kill -9, and a new process in its place"] > SECONDS / 4
    assert number["handed out again, and marked so"] > 10


# The checker


def sound() -> History:
    """Two messages of one sender to the sink, the second delivered twice, and two holds of the lamp."""
    history = History(invoked={("a", 0), ("a", 1)}, accepted={("a", 0), ("a", 1)})
    history.got = [("sink.1", "sink", ("a", 0), 1), ("sink.1", "sink", ("a", 1), 1), ("sink.2", "sink", ("a", 1), 2)]
    history.done.update([("a", 0), ("a", 1)])
    history.holds = [(10, 1, 20, 100), (30, 2, None, 200), (50, 3, 60, 100)]
    history.counted = [1, 2]
    return history


def lose(history: History) -> None:
    history.accepted.add(("a", 2))
    history.invoked.add(("a", 2))


def invent(history: History) -> None:
    history.got.append(("sink.1", "sink", ("b", 7), 1))


def refuse(history: History) -> None:
    history.refused.add(("a", 1))


BREAKS: dict[str, Callable[[History], object]] = {
    "lost": lose,
    "invented": invent,
    "refused": refuse,
    "acknowledged twice": lambda history: history.done.update([("a", 0)]),
    "handed out twice": lambda history: history.got.append(("sink.2", "sink", ("a", 0), 1)),
    "out of order": lambda history: history.got.insert(0, ("sink.1", "sink", ("a", 1), 1)),
    "held by two": lambda history: history.holds.append((55, 4, 70, 300)),
    "updates lost": lambda history: history.counted.append(2),
}


def test_a_sound_history_passes() -> None:
    assert not any(check(sound(), set(), {200: 40}, 2).values())


@pytest.mark.parametrize("what", BREAKS)
def test_the_checker_finds_it(what: str) -> None:
    history = copy.deepcopy(sound())
    BREAKS[what](history)
    found = [name for name, violations in check(history, set(), {200: 40}, 2).items() if violations]
    assert any(name.startswith(what) for name in found), found


@pytest.mark.parametrize(("killed", "expected"), [({200: 40}, 0), ({200: 51}, 1), ({}, 1)])
def test_a_killed_holder_held_until_it_was_killed(killed: dict[int, int], expected: int) -> None:
    found = check(sound(), set(), killed, 2)
    assert len(found["held by two at once, or at a falling epoch"]) == expected


def test_what_still_waits_is_not_lost() -> None:
    history = sound()
    lose(history)
    assert not any(check(history, {("a", 2)}, {200: 40}, 2).values())
