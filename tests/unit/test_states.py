"""The states of a service, and how long it waits: pure, so tested over everything there can be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_coord.supervise.states import TABLE, Happening, RestartRules, State, next_state, pause


def test_every_move_is_in_the_table() -> None:
    for state, happening in itertools.product(State, Happening):
        if (state, happening) in TABLE:
            assert next_state(state, happening) is TABLE[state, happening]
        else:
            with pytest.raises(KeyError):
                next_state(state, happening)


def test_every_state_is_reached_and_can_be_stopped() -> None:
    reached, now = {State.STOPPED}, {State.STOPPED}
    while now:
        now = {after for (state, _), after in TABLE.items() if state in now} - reached
        reached |= now
    assert reached == set(State)
    for state in set(State) - {State.STOPPED, State.STOPPING}:
        asked = next_state(state, Happening.STOP)
        assert asked is (State.STOPPING if state.runs else State.STOPPED), "what runs is ended, what does not is stopped"


@given(st.integers(1, 50), st.floats(0.01, 10), st.floats(10, 100), st.integers(0, 20))
def test_the_pause_grows_and_ends(failures: int, first: float, longest: float, limit: int) -> None:
    rules = RestartRules(first=first, longest=longest, limit=limit)
    found = pause(failures, rules)
    assert (found is None) == (failures > limit)
    if found is not None:
        assert first <= found <= longest
        later = pause(failures + 1, rules)
        assert later is None or later >= found


def test_the_usual_pauses() -> None:
    assert [pause(failures, RestartRules()) for failures in range(1, 7)] == [0.5, 1.0, 2.0, 4.0, 8.0, None]
