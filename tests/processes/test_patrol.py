"""An idle instance glances when it beats and does no more; what hangs or fails there keeps no heart from beating."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import support

from mnemo_coord import Coordinator, Event, Fleet, Settings
from mnemo_coord.members.heartbeat import Beat, read
from mnemo_coord.members.registration import Registration

FAST = Settings(heartbeat_interval=0.1, poll_interval=0.1)


@pytest.fixture
def two(state_dir: Path) -> Iterator[list[Coordinator]]:
    """Two instances, the one with the lower id first: that one clears away for all, so it always polls in full."""
    members = [Coordinator(state_dir, settings=FAST) for _ in range(2)]
    for member in members:
        member.register()
    yield sorted(members, key=lambda member: member.instance_id)
    for member in members:
        member.unregister()


def beat_of(member: Coordinator) -> Beat:
    fleet = member.fleet
    beat = read(fleet.state, fleet.signer, member.instance_id)
    assert beat is not None
    return beat


def beats_on(member: Coordinator) -> None:
    before = beat_of(member).seq
    support.wait_until(lambda: beat_of(member).seq > before + 3)


def inner(member: Coordinator) -> Any:
    return member._member


def unrung(sender: Coordinator, receiver: Coordinator, payload: Any) -> None:
    """Sends a message whose bell nobody hears."""
    inner(receiver)._watch.stop()
    with Fleet.open(sender.fleet.state.path, settings=FAST) as fleet:
        fleet.send(receiver.instance_id, "News", payload, sender="tester")


def test_an_idle_one_only_glances(two: list[Coordinator], monkeypatch: pytest.MonkeyPatch) -> None:
    patrol = inner(two[1])._patrol
    support.wait_until(patrol._nothing_new)
    polls: list[int] = []
    poll = patrol._lookout._poll
    monkeypatch.setattr(patrol._lookout, "_poll", lambda **options: polls.append(1) or poll(**options))
    before = beat_of(two[1]).seq
    support.wait_until(lambda: beat_of(two[1]).seq > before + 20)
    assert len(polls) <= 10  # every poll, were it not for the glance; some where a loaded machine was late


def test_a_glance_sees_who_leaves(two: list[Coordinator]) -> None:
    lookout = inner(two[1])._patrol._lookout
    support.wait_until(lookout.is_quiet)
    other = two[0].instance_id
    two[0].unregister()
    support.wait_until(lambda: other not in lookout._known)


def test_what_waits_is_delivered_without_a_bell(two: list[Coordinator]) -> None:
    """I10."""
    got: list[Any] = []
    two[1].on_message(lambda message: got.append(message.payload))
    unrung(two[0], two[1], "quietly")
    support.wait_until(lambda: got == ["quietly"])


def test_a_callback_that_hangs_keeps_no_heart_from_beating(two: list[Coordinator]) -> None:
    """H8."""
    hanging, over = threading.Event(), threading.Event()

    def hang(_: Any) -> None:
        hanging.set()
        over.wait(30)

    two[1].on_message(hang)
    unrung(two[0], two[1], 1)
    try:
        assert hanging.wait(30)
        beats_on(two[1])
    finally:
        over.set()


def test_a_subscriber_that_hangs_keeps_no_heart_from_beating(two: list[Coordinator]) -> None:
    """H8."""
    hanging, over = threading.Event(), threading.Event()

    def hang(_: Event) -> None:
        hanging.set()
        over.wait(30)

    two[1].on_event(hang)
    two[0].unregister()
    try:
        assert hanging.wait(30)
        beats_on(two[1])
    finally:
        over.set()


def test_a_glance_that_fails_keeps_no_heart_from_beating_and_no_poll_from_looking(
    two: list[Coordinator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """H8, I10."""
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise RuntimeError("made to fail")

    got: list[Any] = []
    two[1].on_message(lambda message: got.append(message.payload))
    monkeypatch.setattr(inner(two[1])._patrol, "glance", fail)
    assert failed.wait(30)
    unrung(two[0], two[1], "late")
    other = two[0].instance_id
    two[0].unregister()
    support.wait_until(lambda: got == ["late"])
    support.wait_until(lambda: other not in inner(two[1])._patrol._lookout._known)
    beats_on(two[1])


def test_a_record_that_lacks_a_member_is_refused(two: list[Coordinator]) -> None:
    body = inner(two[0]).registration.to_body()
    assert Registration.from_body(body) == inner(two[0]).registration
    for name in body:
        with pytest.raises(ValueError, match=name):
            Registration.from_body({key: value for key, value in body.items() if key != name})
