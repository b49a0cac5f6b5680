"""A line of the registry is found where it is to be expected, and nothing else is taken for it."""

from __future__ import annotations

import random

import pytest

from mnemo_coord.members import registry_text as text


def registry(size: int, seed: int) -> dict[str, bytes]:
    dice = random.Random(seed)
    return {f"{number:08x}": b'{"n":%d,"pad":"%b"}' % (number, b"x" * 560) for number in dice.sample(range(2**32), size)}


def part_of(data: bytes, instance_id: str) -> bytes:
    begin = text.near(instance_id, len(data))
    return data[begin : begin + 2 * text.NEAR]


@pytest.mark.parametrize("size", [1, 9, 100, 400, 1000, 3000])
def test_what_is_found_in_a_part_is_what_the_whole_says(size: int) -> None:
    data = text.join(registry(size, size))
    for instance_id in registry(size, size):
        found = text.following(part_of(data, instance_id), instance_id, 8)
        rank, following = text.around(data, instance_id, 8) or (0, {})
        if found is not None:
            assert found[1] == following
            assert found[0] <= rank


def test_of_a_thousand_nearly_all_are_where_they_are_expected() -> None:
    stored = registry(1000, 1)
    data = text.join(stored)
    assert sum(text.line_of(each) in part_of(data, each) for each in stored) > 990
    assert sum(text.following(part_of(data, each), each, 8) is not None for each in stored) > 950


def test_a_part_does_not_go_round_the_ring() -> None:
    """The last of them are followed by the first, which are at the other end."""
    stored = registry(1000, 2)
    data = text.join(stored)
    for each in sorted(stored)[-8:]:
        assert text.following(part_of(data, each), each, 8) is None


def test_what_is_not_there_is_not_found_in_a_part() -> None:
    data = text.join(registry(1000, 3))
    missing = next(each for each in registry(1000, 4) if each not in registry(1000, 3))
    assert text.following(part_of(data, missing), missing, 8) is None


def test_the_two_ends_tell_the_form() -> None:
    data = text.join(registry(1000, 5))
    assert text.is_ours(data[:64] + data[-64:])
    assert not text.is_ours(data[1:65] + data[-64:])
    assert not text.is_ours(data[:64] + data[-65:-1])
