"""One leads at a time; a dead leader is replaced within a second, the epoch rises, and a former leader's write is refused."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import support

from mnemo_coord import Claim, Coordinator, Settings, aio, errors
from mnemo_coord.holdings import fence

FAST = Settings(heartbeat_interval=0.2, poll_interval=0.2)

CANDIDATE = """
    import signal, sys, time
    from mnemo_coord import Coordinator
    with Coordinator(sys.argv[1]) as me:
        with me.lead("scheduler") as term:
            print(f"leads {me.instance_id} {term.epoch} {time.monotonic()}", flush=True)
            signal.pause()
"""


def test_a_dead_leader_is_replaced_within_a_second(state_dir: Path, tmp_path: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me:
        assert me.leader("scheduler") is None
        candidates = [support.python(CANDIDATE, tmp_path / f"c{number}", state_dir) for number in range(4)]
        last = 0
        while candidates:
            leader = support.wait_until(lambda: next((c for c in candidates if "leads" in c.printed), None))
            _, who, epoch, since = leader.printed.split()
            assert [c for c in candidates if "leads" in c.printed] == [leader], "one at a time"
            assert int(epoch) > last
            holder = support.wait_until(lambda: me.leader("scheduler"))
            assert (holder.instance_id, holder.epoch, holder.pid) == (who, int(epoch), leader.pid)
            if last:
                assert float(since) - killed < 1.0  # noqa: F821  # set at the end of the round before
            last = int(epoch)
            killed = time.monotonic()  # noqa: F841
            leader.kill()
            candidates.remove(leader)
        support.wait_until(lambda: me.leader("scheduler") is None)
        with me.lead("scheduler", timeout=0) as term:
            assert term.epoch == last + 1


def test_a_leader_that_steps_down_is_replaced(state_dir: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        term = one.lead("scheduler")
        with pytest.raises(errors.Conflict) as caught:
            two.lead("scheduler", timeout=0.1)
        assert caught.value.holder == one.instance_id
        elected: list[int] = []
        waiting = threading.Thread(target=lambda: elected.append(two.lead("scheduler").epoch))
        waiting.start()
        term.release()
        waiting.join(5)
        assert elected == [term.epoch + 1]


def test_a_callback_leads_until_it_returns(state_dir: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        terms: list[tuple[str, int]] = []
        done = threading.Event()

        def lead_once(term: Claim) -> None:
            terms.append(("one", term.epoch))
            done.wait(10)

        def fail_first(term: Claim) -> None:
            terms.append(("two", term.epoch))
            if len(terms) == 2:
                raise RuntimeError("not today")

        one.on_lead("scheduler", lead_once)
        support.wait_until(lambda: terms)
        two.on_lead("scheduler", fail_first)
        assert one.leader("scheduler").instance_id == one.instance_id  # type: ignore[union-attr]
        done.set()
        support.wait_until(lambda: len(terms) == 3, what="who failed stands again")
        assert terms == [("one", 1), ("two", 2), ("two", 3)]
        support.wait_until(lambda: one.leader("scheduler") is None)


def test_leaving_ends_a_candidacy(state_dir: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one:
        term = one.lead("scheduler")
        with Coordinator(state_dir, settings=FAST) as two:
            called: list[Claim] = []
            stop = two.on_lead("scheduler", called.append)
            two.on_lead("scheduler", called.append)
            stop()
            failed: list[BaseException] = []

            def wait() -> None:
                try:
                    two.lead("scheduler")
                except errors.LeaseLost as error:
                    failed.append(error)

            waiting = threading.Thread(target=wait)
            waiting.start()
        waiting.join(5)
        assert len(failed) == 1
        term.release()
        time.sleep(0.5)  # nothing to wait for: it is about what does not happen
        assert called == []
        assert one.leader("scheduler") is None


def test_a_former_leaders_write_is_refused(state_dir: Path, tmp_path: Path) -> None:
    """I17, I18."""
    table = tmp_path / "table.json"
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        old = one.lead("scheduler")
        old.write(table, b"old")
        (state_dir / "claims" / f"{old.stem}.lock").unlink()  # by hand: two may now believe that they lead
        new = two.lead("scheduler", timeout=5)
        assert new.epoch > old.epoch
        with pytest.raises(errors.LeaseLost):
            old.write(table, b"too late")
        with pytest.raises(errors.LeaseLost):
            old.check()
        new.write(table, b"new")
        assert table.read_bytes() == b"new"
        with pytest.raises(errors.LeaseLost, match="comes too late"):
            fence.write(table, b"from one that does not look", old.epoch)
        assert table.read_bytes() == b"new"
        support.wait_until(lambda: not old.active, what="at its next beat it knows")


def test_a_stopped_leader_keeps_its_place_and_writes(state_dir: Path, tmp_path: Path) -> None:
    """A paused process is not a dead one: nobody leads in its place, so nothing has to be refused."""
    with Coordinator(state_dir, settings=FAST) as me, support.python(CANDIDATE, tmp_path, state_dir) as leader:
        leader.wait_for("leads")
        leader.send_signal(signal.SIGSTOP)
        with pytest.raises(errors.Conflict):
            me.lead("scheduler", timeout=1.5)
        leader.kill()
        with me.lead("scheduler", timeout=5) as term:
            assert term.epoch == 2


def test_concurrent_fenced_writes_never_go_back(tmp_path: Path) -> None:
    """I18: whatever order they come in, what stays was written by the highest epoch that ever wrote."""
    table, written, refused = tmp_path / "table", [], []

    def write(epoch: int) -> None:
        try:
            fence.write(table, str(epoch).encode(), epoch)
            written.append(epoch)
        except errors.LeaseLost:
            refused.append(epoch)

    threads = [threading.Thread(target=write, args=[epoch]) for epoch in (5, 1, 9, 3, 7, 9, 2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.read_bytes() == b"9"
    assert len(written) + len(refused) == 8
    write(8)
    assert refused[-1] == 8
    assert oct(table.stat().st_mode & 0o777) == "0o600"


def test_a_fenced_file_is_whole_or_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fence.write(tmp_path / "table", b"first", 1)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.State, match="no space"):
        fence.write(tmp_path / "table", b"second", 2)
    assert (tmp_path / "table").read_bytes() == b"first"
    assert {path.name for path in tmp_path.iterdir()} == {"table", "table.epoch", "fleet"}
    with pytest.raises(errors.State, match="missing"):
        fence.write(tmp_path / "missing" / "table", b"", 1)


def test_a_lost_name_is_taken_again_or_given_up(state_dir: Path) -> None:
    with Coordinator(state_dir, name="planner", settings=FAST) as one:
        lock = next((state_dir / "claims").glob("name-*.lock"))
        lock.unlink()
        support.wait_until(lock.exists, what="taken again at its next beat")
        with pytest.raises(errors.Conflict):
            Coordinator(state_dir, name="planner", settings=FAST).register()
        assert [i.name for i in one.instances()] == ["planner"]


def test_asyncio_leads_too_and_a_cancelled_candidate_leads_nothing(state_dir: Path) -> None:
    async def play() -> None:
        async with aio.Coordinator(state_dir, settings=FAST) as one, aio.Coordinator(state_dir, settings=FAST) as two:
            term = await one.lead("scheduler")
            with pytest.raises(errors.Conflict):
                await two.lead("scheduler", timeout=0.05)
            standing = asyncio.create_task(two.lead("scheduler"))
            await asyncio.sleep(0.1)
            standing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await standing
            term.release()
            holder = await one.leader("scheduler")
            while holder is not None:  # what its thread still won is given up
                await asyncio.sleep(0.02)
                holder = await one.leader("scheduler")
            async with await one.lead("scheduler", timeout=5) as again:
                assert again.epoch >= 2

    asyncio.run(asyncio.wait_for(play(), 30))
