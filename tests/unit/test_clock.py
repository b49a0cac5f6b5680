"""Times are shown in UTC, stamps rise whatever the clock does, and a boot is known by its id."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from unit.fake_clock import SECOND, FakeClock
from unit.kernel import unshare

from mnemo_coord.disk.clock import Clock, Stamps, SystemClock, namespace, rfc3339

SHOWN = {
    0: "1970-01-01T00:00:00.000Z",
    999_999: "1970-01-01T00:00:00.000Z",
    1_000_000: "1970-01-01T00:00:00.001Z",
    999_999_999: "1970-01-01T00:00:00.999Z",
    1_762_318_440_123_999_999: "2025-11-05T04:54:00.123Z",
    1_709_164_800_000_000_000: "2024-02-29T00:00:00.000Z",
    4_102_444_799_000_000_000: "2099-12-31T23:59:59.000Z",
    -1: "1969-12-31T23:59:59.999Z",
}


@pytest.mark.parametrize(("wall_ns", "shown"), SHOWN.items())
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/St_Johns"])
def test_a_time_is_shown_in_utc(wall_ns: int, shown: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert rfc3339(wall_ns) == shown
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


STEPS = {
    "stands still": [0, 0, 0, 0],
    "goes on": [1, 1, 1, 1],
    "back by an hour": [0, -3600, 0, 1],
    "forth and back": [3600, -3600, 1, -1],
    "ten years ahead and back": [315_360_000, -315_360_000, 0, 0],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_stamps_rise_strictly(steps: list[int], clock: FakeClock) -> None:
    """H5, I6."""
    stamps = Stamps(clock)
    seen = [stamps.next()]
    for step in steps:
        clock.advance(0, wall=step)
        seen += [stamps.next(), stamps.next()]
    assert all(earlier < later for earlier, later in itertools.pairwise(seen))
    assert seen[0] == FakeClock().wall_ns()


def test_a_stamp_is_the_time_where_that_has_risen(clock: FakeClock) -> None:
    stamps = Stamps(clock)
    stamps.next()
    clock.advance(1)
    assert stamps.next() == clock.wall_ns()
    clock.advance(1, wall=-100)
    behind = stamps.next()
    assert behind == clock.wall_ns() + 100 * SECOND + 1, "one more than the last"
    clock.advance(200)
    assert stamps.next() == clock.wall_ns(), "it does not run ahead for ever"


def test_threads_never_get_the_same_stamp(clock: FakeClock) -> None:
    stamps = Stamps(clock)
    drawn: list[list[int]] = [[] for _ in range(8)]

    def draw(mine: list[int]) -> None:
        mine.extend(stamps.next() for _ in range(2_000))

    threads = [threading.Thread(target=draw, args=(mine,)) for mine in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [stamp for mine in drawn for stamp in mine]
    assert len(set(everything)) == 16_000
    assert all(mine == sorted(mine) for mine in drawn)


def test_the_machines_clocks_are_what_they_say() -> None:
    system: Clock = SystemClock()
    assert system.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for ask, truth in (
        (system.wall_ns, time.time_ns),
        (system.age_ns, lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME)),
    ):
        before, asked, after = truth(), ask(), truth()
        assert before <= asked <= after


@pytest.mark.parametrize(("content", "boot_id"), [(None, ""), (b"abc-def\n", "abc-def"), (b"", ""), (b"\xff\xfe", "")])
def test_a_boot_id_that_cannot_be_read_is_empty(content: bytes | None, boot_id: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "boot_id").write_bytes(content)
    system = SystemClock(str(tmp_path / "boot_id"))
    assert system.boot_id == boot_id
    (tmp_path / "boot_id").write_text("another")
    assert system.boot_id == boot_id, "a process does not live through a boot"


@pytest.mark.parametrize("kind", ["pid", "time"])
def test_a_namespace_is_named_by_its_inode(kind: str) -> None:
    assert namespace(kind) == os.stat(f"/proc/self/ns/{kind}").st_ino
    assert namespace("no-such-kind") == 0


def test_a_forked_child_may_be_in_another_namespace() -> None:
    """H14. Asked before the fork, the parent's answer must not be the child's."""
    program = """
import itertools
import os
from mnemo_coord.disk.clock import namespace
before = namespace("pid")
if os.fork() == 0:
    assert namespace("pid") == os.stat("/proc/self/ns/pid").st_ino
    print(namespace("pid") == before, flush=True)
    os._exit(0)
os.wait()
"""
    # Without --fork the program itself stays outside, and its first child is the first process of the new namespace.
    argv = [*unshare("-Urp"), sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"
