"""What a poll would find is found although the heartbeat alone looks, and what the heartbeat does not see is found all the same."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import support

from mnemo_coord import Coordinator, Fleet, Settings, polling
from mnemo_coord.events import Event
from mnemo_coord.members import lookout
from mnemo_coord.members.lookout import Lookout
from mnemo_coord.messages import receiver

QUICK = Settings(heartbeat_interval=0.1, poll_interval=0.1)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the threads of this process that look did so."""
    seen: list[float] = []
    really = Lookout.look

    def look(self: Lookout, *args: object, **options: object) -> float | None:
        seen.append(time.monotonic())
        return really(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Lookout, "look", look)
    return seen


@pytest.fixture
def only_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread looks unless a heartbeat, or a bell, wakes it."""
    monkeypatch.setattr(polling, "UNATTENDED", 1e6)
    monkeypatch.setattr(receiver, "UNATTENDED", 1e6)
    monkeypatch.setattr(lookout, "CLEARING", 10**9)


@pytest.fixture
def me(state_dir: Path) -> Iterator[Coordinator]:
    with Coordinator(state_dir, name="one", settings=QUICK) as coordinator:
        yield coordinator


def alone(me: Coordinator) -> None:
    """Nothing wakes it any more but its own clock."""
    for wanted in tuple(me._member._watch._wanted):
        me._member._watch.drop(wanted.path)


def beats(me: Coordinator) -> int:
    return me._member._beats._seq


def await_beats(me: Coordinator, count: int) -> None:
    until = beats(me) + count
    support.wait_until(lambda: beats(me) >= until)


def test_a_thread_that_would_find_nothing_is_not_woken(state_dir: Path, looks: list[float]) -> None:
    with support.Serve(state_dir), Coordinator(state_dir, settings=QUICK) as me:
        await_beats(me, 16)  # it has met its neighbours, and what happened while it came is over
        before = len(looks)
        await_beats(me, 32)
        assert 1 <= len(looks) - before <= 32 / polling.UNATTENDED + 3


def test_it_looks_at_each_poll_for_who_wants_to_be_told(me: Coordinator, looks: list[float]) -> None:
    me.on_event(lambda _event: None)
    await_beats(me, 4)
    before = len(looks)
    await_beats(me, 16)
    assert len(looks) - before >= 12


@pytest.mark.usefixtures("only_heartbeats")
def test_an_end_that_no_bell_tells_of_is_seen_by_the_heartbeat(state_dir: Path, me: Coordinator) -> None:
    with support.Serve(state_dir, "--poll-interval", "60", "--heartbeat-interval", "60") as peer:
        support.wait_until(lambda: peer.instance_id in me._member._polling._lookout._known)
        alone(me)
        await_beats(me, 8)
        peer.send_signal(signal.SIGKILL)
        peer.wait()
        with Fleet.open(state_dir) as fleet:
            support.wait_until(lambda: peer.instance_id not in fleet.registry.read(), 5)


@pytest.mark.usefixtures("only_heartbeats")
@pytest.mark.parametrize("held_up", ["nothing", "heartbeat"])
def test_a_message_that_no_bell_tells_of_is_seen(held_up: str, me: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9. By the heartbeat; where that is held up by the thread that looks, which wakes by itself now and then."""
    if held_up == "heartbeat":
        monkeypatch.setattr(polling, "UNATTENDED", 3)
    got: list[object] = []
    me.on_message(lambda message: got.append(message.payload))
    me.send("one", "T", 1)
    support.wait_until(lambda: got == [1])
    me._member._polling.poll_now()  # the next wait is the one that was asked for here
    alone(me)
    await_beats(me, 3)
    if held_up == "heartbeat":
        me._member._beating.stop()
    me.send("one", "T", 2)
    support.wait_until(lambda: got == [1, 2], 5)


@pytest.mark.usefixtures("only_heartbeats")
def test_what_a_dead_receiver_had_in_hand_is_seen_by_the_heartbeat(state_dir: Path, tmp_path: Path) -> None:
    """It never registered, so it is nobody's neighbour."""
    code = """
    import sys, time
    from mnemo_coord.messages.address import Address
    from mnemo_coord import Fleet
    from mnemo_coord.members.identity import draw
    fleet = Fleet.open(sys.argv[1])
    own, lock = draw(fleet.state)
    (delivery,) = fleet.queue.receive([Address("@worker")], own)
    print("claimed", flush=True)
    time.sleep(60)
    """
    with Coordinator(state_dir, roles=["worker"], settings=QUICK) as me:
        await_beats(me, 3)
        alone(me)
        me.send("@worker", "T", "work")
        with support.python(code, tmp_path / "taker", state_dir) as taker:
            taker.wait_for("claimed")
            await_beats(me, 3)
            assert list(me.receive()) == []
            taker.kill()
        (delivery,) = support.wait_until(lambda: list(me.receive()), 5)
        assert (delivery.message.payload, delivery.delivery) == ("work", 2)
        delivery.acknowledge()


def test_a_callback_that_takes_its_time_holds_up_no_heartbeat(state_dir: Path, me: Coordinator) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def told(_event: Event) -> None:
        entered.set()
        go_on.wait(30)

    me.on_event(told)
    try:
        with support.Serve(state_dir):
            assert entered.wait(10)
            await_beats(me, 10)
    finally:
        go_on.set()


def test_what_the_heartbeat_cannot_look_at_is_for_the_thread(
    me: Coordinator, looks: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise OSError(5, "Input/output error")

    await_beats(me, 3)
    monkeypatch.setattr(type(me._member.fleet.queue), "is_still", refuse)
    before = len(looks)
    await_beats(me, 16)
    assert len(looks) - before >= 10
    assert me._member.healthy, "a look that fails is no failure of the heartbeat"
