"""A watch wakes for what it was asked for and for nothing else, mends itself, and says so when the kernel will not notify."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
from unit.kernel import unshare

from mnemo_coord.disk.watch import Change, Watch


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "watched"
    path.mkdir()
    (path / "file").write_text("x")
    return path


@pytest.fixture
def watch() -> Iterator[Watch]:
    watching = Watch()
    yield watching
    watching.stop()


def close_after_writing(path: Path) -> None:
    with path.open("r+b"):
        pass


def close_after_reading(path: Path) -> None:
    with path.open("rb") as stream:
        stream.read()


def make(path: Path) -> None:
    path.with_name("made").write_text("x")


def write_without_closing(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"y")
    os.set_inheritable(fd, False)
    KEPT_OPEN.append(fd)


KEPT_OPEN: list[int] = []


@pytest.fixture(autouse=True)
def _close_what_was_kept_open() -> Iterator[None]:
    yield
    while KEPT_OPEN:
        os.close(KEPT_OPEN.pop())


ACTIONS = {
    "closed after writing": close_after_writing,
    "closed after reading": close_after_reading,
    "touched": os.utime,
    "written, not closed": write_without_closing,
    "mode changed": lambda path: path.chmod(0o600),
    "made": make,
    "removed": os.unlink,
    "renamed": lambda path: path.rename(path.with_name("renamed")),
    "listed": lambda path: os.listdir(path.parent),
}

WAKES = {
    (Change.CLOSED, "closed after writing"): {"file"},
    (Change.CLOSED, "made"): {"made"},
    (Change.TOUCHED, "touched"): {"file"},
    (Change.TOUCHED, "written, not closed"): {"file"},
    (Change.TOUCHED, "mode changed"): {"file"},
    (Change.TOUCHED, "made"): {"made"},
}
"""Everything that is not named here wakes nobody."""


@pytest.mark.parametrize("change", Change)
@pytest.mark.parametrize("action", ACTIONS)
def test_what_wakes(change: Change, action: str, watch: Watch, place: Path) -> None:
    woken: list[str] = []
    watch.add(str(place), change, woken.append)
    ACTIONS[action](place / "file")
    # The kernel keeps the order: when this has come, whatever the action caused has come before it.
    (place / "sentinel").write_text("x")
    support.wait_until(lambda: "sentinel" in woken)
    before = woken[: woken.index("sentinel")]
    folder_itself = {place.name}
    assert set(before) - folder_itself == WAKES.get((change, action), set())
    if change is Change.CLOSED:
        assert len(before) == len(WAKES.get((change, action), ())), "each once"


def test_the_end_of_a_process_wakes(watch: Watch, place: Path, tmp_path: Path) -> None:
    """H2. Its file was open for writing."""
    woken: list[str] = []
    watch.add(str(place), Change.CLOSED, woken.append)
    program = "import sys, time; stream = open(sys.argv[1], 'r+'); print('open', flush=True); time.sleep(60)"
    with support.python(program, tmp_path / "child", place / "file") as child:
        child.wait_for("open")
        assert woken == []
        child.kill()
        support.wait_until(lambda: woken == ["file"])


def test_a_raising_callback_is_called_again(watch: Watch, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Q28."""
    woken: list[str] = []

    def wake(name: str) -> None:
        woken.append(name)
        raise RuntimeError("broken callback")

    watch.add(str(place), Change.CLOSED, wake)
    for number in range(1, 4):
        (place / "file").write_text("x")
        support.wait_until(lambda number=number: len(woken) == number)
    assert "broken callback" in caplog.text
    assert not watch.degraded


@pytest.mark.parametrize("change", Change)
@pytest.mark.parametrize("how", ["deleted", "renamed away"])
def test_a_folder_that_came_back_is_watched_again(change: Change, how: str, watch: Watch, place: Path, tmp_path: Path) -> None:
    """Q26. Watchdog itself would go on watching nothing."""
    woken: list[str] = []
    watch.add(str(place), change, woken.append)
    if how == "deleted":
        shutil.rmtree(place)
    else:
        place.rename(tmp_path / "away")
    watch.mend()
    assert watch.degraded, "while it is gone it is not watched, and that is known"
    place.mkdir()

    def armed() -> bool:
        watch.mend()
        return not watch.degraded

    support.wait_until(armed)
    woken.clear()
    (place / "file").write_text("x")
    support.wait_until(lambda: "file" in woken)


def test_a_folder_that_was_replaced_between_two_looks_is_watched_again(watch: Watch, place: Path, tmp_path: Path) -> None:
    woken: list[str] = []
    watch.add(str(place), Change.CLOSED, woken.append)
    place.rename(tmp_path / "away")
    place.mkdir()
    watch.mend()
    (place / "new").write_text("x")
    support.wait_until(lambda: "new" in woken)
    (tmp_path / "away" / "old").write_text("x")
    (place / "newer").write_text("x")
    support.wait_until(lambda: "newer" in woken)
    assert "old" not in woken


def test_a_dead_observer_is_replaced(watch: Watch, place: Path) -> None:
    """H8."""
    woken: list[str] = []
    watch.add(str(place), Change.CLOSED, woken.append)
    watch._observer.stop()
    watch._observer.join(5)
    watch.mend()
    assert not watch.degraded
    (place / "file").write_text("x")
    support.wait_until(lambda: woken == ["file"])


def test_several_folders_have_their_own_callbacks(watch: Watch, tmp_path: Path) -> None:
    woken: dict[str, list[str]] = {name: [] for name in "abc"}
    for name, names in woken.items():
        (tmp_path / name).mkdir()
        watch.add(str(tmp_path / name), Change.CLOSED, names.append)
    for name in woken:
        (tmp_path / name / f"in-{name}").write_text("x")
    support.wait_until(lambda: woken == {"a": ["in-a"], "b": ["in-b"], "c": ["in-c"]})


def test_a_dropped_folder_wakes_nobody(watch: Watch, place: Path, tmp_path: Path) -> None:
    woken: list[str] = []
    other = tmp_path / "other"
    other.mkdir()
    watch.add(str(place), Change.CLOSED, woken.append)
    watch.add(str(other), Change.CLOSED, woken.append)
    watch.drop(str(place))
    watch.drop(str(tmp_path / "never-watched"))
    (place / "file").write_text("x")
    (other / "end").write_text("x")
    support.wait_until(lambda: "end" in woken)
    assert woken == ["end"]
    watch.mend()
    assert not watch.degraded


def test_stopping_ends_it_for_good_and_can_be_done_twice(place: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    woken: list[str] = []
    watch = Watch()
    watch.add(str(place), Change.CLOSED, woken.append)
    watch.stop()
    watch.stop()
    (place / "file").write_text("x")
    assert woken == []
    support.wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, what="its descriptors are closed")


EXHAUSTED = """
import logging, os, sys, time
from mnemo_coord.disk.watch import Change, Watch
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
limit, place, woken = f"/proc/sys/user/max_inotify_{sys.argv[1]}", sys.argv[2], []
usual = open(limit).read()
open(limit, "w").write("0")
watch = Watch()
watch.add(place, Change.CLOSED, woken.append)
watch.mend()
watch.mend()
print("degraded", watch.degraded, flush=True)
open(limit, "w").write(usual)
deadline = time.monotonic() + 10
while not woken and time.monotonic() < deadline:
    watch.mend()
    open(os.path.join(place, "file"), "w").close()
    time.sleep(0.005)
print("woken", woken[:1], "degraded", watch.degraded, flush=True)
watch.stop()
"""


@pytest.mark.parametrize("limit", ["instances", "watches"])
def test_at_the_kernels_limit_it_says_so_once_and_tries_again(limit: str, place: Path) -> None:
    """Q26."""
    argv = [*unshare("-Ur"), sys.executable, "-c", EXHAUSTED, limit, str(place)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    warning, degraded, mended = done.stdout.splitlines()
    assert warning.startswith(f"WARNING The kernel cannot notify us of changes in {place} (")
    assert warning.endswith("): polling instead")
    assert degraded == "degraded True"
    assert mended == "woken ['file'] degraded False"
    assert done.stderr == ""
