"""Everybody is watched by a constant number of others, and who is suspected is looked at again for half a second."""

from __future__ import annotations

import itertools
import random

import pytest

from mnemo_coord.members.lookout import WATCHED, neighbours, retry_delay


@pytest.mark.parametrize(
    ("ids", "own", "count", "expected"),
    [
        ("", "b", 8, ""),
        ("b", "b", 8, ""),
        ("a", "b", 8, "a"),
        ("abc", "b", 8, "ca"),
        ("abc", "b", 1, "c"),
        ("abc", "c", 1, "a"),
        ("abc", "a", 2, "bc"),
        ("abcdef", "d", 3, "efa"),
        ("fedcba", "d", 3, "efa"),
        ("abcdef", "d", 0, ""),
        ("abcdef", "d", 5, "efabc"),
        ("abcdef", "d", 99, "efabc"),
        ("aabbcc", "b", 8, "ca"),
        ("acef", "d", 2, "ef"),
        ("abc", "z", 2, "ab"),
    ],
)
def test_whom_one_watches(ids: str, own: str, count: int, expected: str) -> None:
    assert neighbours(ids, own, count) == list(expected)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 9, 10, 100, 1000])
def test_everybody_is_watched_by_as_many(size: int) -> None:
    """I14. All of a small fleet, a constant number in a large one."""
    dice = random.Random(size)
    ids = [f"{number:08x}" for number in dice.sample(range(2**32), size)]
    watched = [neighbour for own in ids for neighbour in neighbours(ids, own, WATCHED)]
    expected = min(WATCHED, size - 1)
    counted = dict.fromkeys(ids, 0)
    for one in watched:
        counted[one] += 1
    assert set(counted.values()) == {expected}


def test_nobody_is_unwatched_when_the_watchers_of_one_die() -> None:
    """H2. The seven who watched it with the first go on, and the next on the ring join them."""
    ids = [f"{number:08x}" for number in range(50)]
    gone = set(ids[10:17])
    left = [one for one in ids if one not in gone]
    assert sum("00000011" in neighbours(left, own, WATCHED) for own in left) == WATCHED


def test_the_pauses_double_and_end() -> None:
    delays = list(itertools.takewhile(lambda delay: delay is not None, map(retry_delay, range(100))))
    assert delays == [0.001 * 2**attempt for attempt in range(9)]
    assert 0.5 < sum(delays) < 0.6
    assert all(retry_delay(attempt) is None for attempt in range(9, 100))
