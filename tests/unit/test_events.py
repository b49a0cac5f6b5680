"""The newest events are kept, each subscriber gets each of them once and in order, and none can harm another."""

from __future__ import annotations

import threading

import pytest
import support

from mnemo_coord.events import Broadcaster, Event, EventKind

KIND = EventKind.INSTANCE_DIED


def broadcaster(capacity: int = 10) -> Broadcaster:
    return Broadcaster(capacity, lambda: "2026-01-01T00:00:00.000Z")


def ids(events: tuple[Event, ...] | list[Event]) -> list[int]:
    return [event.id for event in events]


def test_an_event_says_what_happened_when_and_to_whom() -> None:
    events = broadcaster()
    event = events.publish(KIND, "a1b2c3d4", pid=7)
    expected = Event(id=1, kind=KIND, at="2026-01-01T00:00:00.000Z", instance_id="a1b2c3d4", data={"pid": 7})
    assert event == expected
    assert events.since() == (expected,)


@pytest.mark.parametrize(
    ("capacity", "published", "kept"),
    [
        (1, 0, []),
        (1, 1, [1]),
        (1, 5, [5]),
        (3, 2, [1, 2]),
        (3, 3, [1, 2, 3]),
        (3, 5, [3, 4, 5]),
        (1000, 1200, list(range(201, 1201))),
    ],
)
def test_the_newest_are_kept(capacity: int, published: int, kept: list[int]) -> None:
    """A11, I11."""
    events = broadcaster(capacity)
    for _ in range(published):
        events.publish(KIND, "a1b2c3d4")
    assert ids(events.since()) == kept


@pytest.mark.parametrize(
    ("last_id", "rest"), [(-1, [3, 4, 5]), (0, [3, 4, 5]), (2, [3, 4, 5]), (3, [4, 5]), (4, [5]), (5, []), (10**9, [])]
)
def test_a_reader_goes_on_after_the_last_it_saw(last_id: int, rest: list[int]) -> None:
    """A15."""
    events = broadcaster(3)
    for _ in range(5):
        events.publish(KIND, "a1b2c3d4")
    assert ids(events.since(last_id)) == rest


def test_a_subscriber_that_raises_harms_nobody_and_stays(caplog: pytest.LogCaptureFixture) -> None:
    events, first, broken, last = broadcaster(), [], [], []

    def raise_(event: Event) -> None:
        broken.append(event)
        raise ValueError("broken subscriber")

    events.subscribe(first.append)
    events.subscribe(raise_)
    events.subscribe(last.append)
    for _ in range(3):
        events.publish(KIND, "a1b2c3d4")
    assert ids(first) == ids(broken) == ids(last) == [1, 2, 3]
    assert caplog.text.count("ValueError: broken subscriber") == 3


def test_a_subscription_begins_and_ends() -> None:
    events, got = broadcaster(), []
    events.publish(KIND, "a1b2c3d4")
    unsubscribe = events.subscribe(got.append)
    events.publish(KIND, "a1b2c3d4")
    unsubscribe()
    unsubscribe()
    events.publish(KIND, "a1b2c3d4")
    assert ids(got) == [2]


def test_a_subscriber_may_publish_and_unsubscribe() -> None:
    events, got = broadcaster(), []

    def answer(event: Event) -> None:
        got.append(event)
        unsubscribe()
        events.publish(EventKind.INSTANCE_LEFT, event.instance_id)

    unsubscribe = events.subscribe(answer)
    events.publish(KIND, "a1b2c3d4")
    assert ids(got) == [1]
    assert ids(events.since()) == [1, 2]


def test_many_threads_publish_each_event_once() -> None:
    events, got = broadcaster(5_000), []
    events.subscribe(got.append)
    threads = [threading.Thread(target=lambda: [events.publish(KIND, "x") for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ids(events.since()) == list(range(1, 4_001))
    assert sorted(ids(got)) == list(range(1, 4_001))


def test_a_subscriber_gets_them_in_order_whoever_publishes() -> None:
    """A reader that resumes after the highest id it saw would miss what came late."""
    events, got = broadcaster(), []
    slow, go = threading.Event(), threading.Event()

    def hesitate(event: Event) -> None:
        if event.id == 1:
            slow.set()
            go.wait(10)

    events.subscribe(hesitate)
    events.subscribe(got.append)
    one = threading.Thread(target=events.publish, args=(KIND, "one"))
    one.start()
    assert slow.wait(10)
    two = threading.Thread(target=events.publish, args=(KIND, "two"))
    two.start()
    two.join(0.3)  # it may have to wait for the first; then the order is kept
    go.set()
    one.join()
    two.join()
    support.wait_until(lambda: len(got) == 2)
    assert ids(got) == [1, 2]


def test_every_kind_is_in_the_past_tense() -> None:
    past = ("ed", "died", "left", "sent", "taken", "found")
    odd = [kind for kind in EventKind if not kind.value.endswith(past)]
    assert odd == [EventKind.AGENT_STATE], "which is what somebody said, not what happened"


def test_the_newest_are_found_by_their_number() -> None:
    broadcaster = Broadcaster(3, lambda: "now")
    assert broadcaster.since() == ()
    for number in range(5):
        broadcaster.publish(EventKind.PORT_TAKEN, "a1b2c3d4", port=number, url="")
    assert broadcaster.last_id == 5
    wanted = {-7: [3, 4, 5], 0: [3, 4, 5], 2: [3, 4, 5], 3: [4, 5], 4: [5], 5: [], 6: [], 10**12: []}
    assert {last: [event.id for event in broadcaster.since(last)] for last in wanted} == wanted
