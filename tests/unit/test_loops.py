"""A loop does its step when woken and at its interval, goes on when it fails, and ends when told."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import support

from mnemo_coord.loops import Loop


@pytest.fixture
def run() -> Iterator[Callable[[Callable[[], float]], Loop]]:
    """Starts loops; ends them after the test."""
    started: list[Loop] = []

    def start(step: Callable[[], float]) -> Loop:
        loop = Loop("test", step)
        started.append(loop)
        loop.start()
        return loop

    yield start
    for loop in started:
        loop.stop()


Run = Callable[[Callable[[], float]], Loop]


def test_the_first_step_comes_at_once_and_the_next_when_woken(run: Run) -> None:
    steps: list[int] = []
    loop = run(lambda: steps.append(1) or 3600.0)
    for number in range(1, 4):
        support.wait_until(lambda number=number: len(steps) == number)
        loop.wake()
    support.wait_until(lambda: len(steps) == 4)
    assert loop.healthy


def test_the_next_step_comes_after_the_returned_time(run: Run) -> None:
    at: list[float] = []
    run(lambda: at.append(time.monotonic()) or 0.05)
    support.wait_until(lambda: len(at) >= 4)
    assert all(later - earlier >= 0.049 for earlier, later in itertools.pairwise(at))


def test_a_wake_during_a_step_is_served_by_another(run: Run) -> None:
    steps: list[int] = []
    entered, go = threading.Event(), threading.Event()

    def step() -> float:
        steps.append(1)
        entered.set()
        go.wait(10)
        return 3600.0

    loop = run(step)
    assert entered.wait(10)
    for _ in range(5):
        loop.wake()
    go.set()
    support.wait_until(lambda: len(steps) == 2)
    loop.stop()
    assert len(steps) == 2, "five wakes were served by one step"


def test_a_failing_step_is_tried_again_and_said_once(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """H7, H8."""
    outcomes = [OSError("disk on fire"), OSError("disk on fire"), ValueError("odd"), OSError("disk on fire")]
    steps: list[int] = []

    def step() -> float:
        steps.append(1)
        if len(steps) <= len(outcomes):
            raise outcomes[len(steps) - 1]
        return 3600.0

    loop = run(step)
    for number in range(1, 5):
        support.wait_until(lambda number=number: len(steps) == number)
        support.wait_until(lambda: not loop.healthy)
        loop.wake()
    support.wait_until(lambda: loop.healthy)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.rpartition(": ")[2] for text in said] == ["disk on fire", "odd", "disk on fire"], "when it changes"


def test_a_failing_step_does_not_spin(run: Run) -> None:
    """H7. Also one that otherwise comes again at once."""
    steps: list[float] = []

    def step() -> float:
        steps.append(time.monotonic())
        raise OSError("disk on fire")

    run(step)
    support.wait_until(lambda: len(steps) >= 2)
    assert steps[1] - steps[0] >= 0.49


@pytest.mark.parametrize("delay", [threading.TIMEOUT_MAX, 1e10, 1e300, float("inf")])
def test_no_delay_is_too_long(delay: float, run: Run) -> None:
    """H8. Longer than the system can wait: the thread must not end for it."""
    steps: list[int] = []
    loop = run(lambda: steps.append(1) or delay)
    for number in range(1, 3):
        support.wait_until(lambda number=number: len(steps) == number, timeout=3)
        loop.wake()
    assert loop.healthy


def test_stopping_waits_for_the_step_and_nothing_follows(run: Run) -> None:
    entered, done = threading.Event(), threading.Event()
    steps: list[int] = []

    def step() -> float:
        steps.append(1)
        entered.set()
        done.wait(0.1)
        done.set()
        return 0.0

    loop = run(step)
    assert entered.wait(10)
    loop.stop()
    assert done.is_set()
    count = len(steps)
    loop.wake()
    loop.stop()
    assert len(steps) == count
    assert not loop.healthy


def test_stopping_does_not_wait_for_ever(run: Run) -> None:
    go, entered = threading.Event(), threading.Event()

    def step() -> float:
        entered.set()
        go.wait(30)
        return 0.0

    loop = run(step)
    assert entered.wait(10)
    start = time.monotonic()
    loop.stop(timeout=0.05)
    assert time.monotonic() - start < 5
    go.set()


def test_a_loop_can_be_stopped_by_its_own_step(run: Run) -> None:
    steps: list[int] = []
    loops: list[Loop] = []

    def step() -> float:
        steps.append(1)
        support.wait_until(lambda: loops)
        loops[0].stop()
        return 0.0

    loops.append(run(step))
    support.wait_until(lambda: not loops[0].healthy)
    assert steps == [1]


def test_one_that_was_never_started_can_be_stopped() -> None:
    loop = Loop("test", lambda: 1.0)
    loop.stop()
    assert not loop.healthy
