"""A file appears whole or not at all, with its mode whatever the umask, and nothing planted is followed, waited for or changed."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import support
from unit.kernel import WITHOUT_CAPABILITIES, need_root

from mnemo_coord import errors
from mnemo_coord.disk import files


@pytest.fixture
def place(folder: int, tmp_path: Path) -> Path:
    """The path of the fixture ``folder``."""
    return tmp_path / "folder"


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def publish(name: str, data: bytes, folder: int, *, durable: bool = False) -> None:
    files.publish(name, data, dir_fd=folder, tmp_name=f"{name}.tmp", tmp_fd=folder, durable=durable)


# Publishing


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("data", [b"", b"x", b"y" * 3_000_000], ids=len)
def test_what_is_published_is_there_and_nothing_else(data: bytes, durable: bool, folder: int, place: Path) -> None:
    (place / "record").write_bytes(b"old and longer than one byte")
    publish("record", data, folder, durable=durable)
    assert (place / "record").read_bytes() == data
    assert mode(place / "record") == 0o600
    assert os.listdir(folder) == ["record"]


def test_a_reader_sees_the_old_or_the_new(folder: int, place: Path) -> None:
    """I1."""
    contents = [bytes([letter]) * size for letter, size in zip(b"abcd", (1, 5_000, 100_000, 700_000), strict=True)]
    publish("record", contents[0], folder)
    done = threading.Event()
    torn: list[int] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not done.is_set():
            seen = (place / "record").read_bytes()
            reads += 1
            if seen not in contents:
                torn.append(len(seen))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(300):
        publish("record", contents[turn % 4], folder)
    support.wait_until(lambda: reads > 20)
    done.set()
    reader.join()
    assert torn == []


SHORT_OF_SPACE = """
import resource, signal, sys
from mnemo_coord.disk import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, limit = files.open_dir(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for durable in (False, True):
    try:
        files.publish("record", b"n" * 300, dir_fd=folder, tmp_name="t.tmp", tmp_fd=folder, durable=durable)
        print("published")
    except OSError as error:
        print("refused", error.errno)
"""


@pytest.mark.parametrize(("limit", "fits"), [(0, False), (1, False), (100, False), (299, False), (300, True)])
def test_a_short_write_publishes_nothing(limit: int, fits: bool, place: Path) -> None:
    """Q32. RLIMIT_FSIZE lets write(2) write less than it was given, and then fail."""
    (place / "record").write_bytes(b"old")
    # Its output goes into a pipe: a file of its own would be short, too.
    argv = [sys.executable, "-c", SHORT_OF_SPACE, str(place), str(limit)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == (["published"] * 2 if fits else ["refused", str(errno.EFBIG)] * 2)
    assert (place / "record").read_bytes() == (b"n" * 300 if fits else b"old")
    assert os.listdir(place) == ["record"]


PUBLISH = """
import sys
from mnemo_coord.disk import files
folder = files.open_dir(sys.argv[1])
try:
    files.publish("record", b"new" * 100, dir_fd=folder, tmp_name="t.tmp", tmp_fd=folder, durable=True)
    print("published")
except OSError as error:
    print("refused", error.errno)
"""


@pytest.mark.parametrize(
    "fault",
    [
        "write:error=ENOSPC:when=1",
        "write:error=EIO:when=1",
        "fchmod:error=EPERM:when=1",
        "fsync:error=EIO:when=1",
        "rename,renameat,renameat2:error=EXDEV:when=1",
    ],
)
def test_when_publishing_raises_nothing_has_appeared(fault: str, place: Path) -> None:
    """R23, Q38, I3."""
    (place / "record").write_bytes(b"old")
    assert publish_with(fault, place).startswith("refused")
    assert os.listdir(place) == ["record"]
    assert (place / "record").read_bytes() == b"old"


def test_when_only_the_folder_could_not_be_synced_it_has_appeared_whole_and_that_is_said(place: Path) -> None:
    """Q38. Not "published": it might not survive a power cut."""
    (place / "record").write_bytes(b"old")
    assert publish_with("fsync:error=EIO:when=2", place) == f"refused {errno.EIO}\n"
    assert os.listdir(place) == ["record"]
    assert (place / "record").read_bytes() == b"new" * 100


def publish_with(fault: str, place: Path) -> str:
    """What `PUBLISH` prints when a system call fails on the folder or on the temporary file in it."""
    # Only calls on these count: the interpreter writes and renames files of its own.
    traced = support.strace("-o", "/dev/null", "-P", str(place), "-P", str(place / "t.tmp"), "-P", "t.tmp")
    calls = fault.partition(":")[0]
    argv = [*traced, "-e", f"trace={calls}", "-e", f"inject={fault}", sys.executable, "-c", PUBLISH, str(place)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


def leave_file(tmp: Path, target: Path) -> None:
    tmp.write_bytes(b"left by a dead writer, longer than what comes now")


def leave_unwritable_file(tmp: Path, target: Path) -> None:
    tmp.write_bytes(b"x")
    tmp.chmod(0)


def leave_link(tmp: Path, target: Path) -> None:
    tmp.symlink_to(target)


def leave_dangling_link(tmp: Path, target: Path) -> None:
    tmp.symlink_to(target.parent / "nowhere")


def leave_hard_link(tmp: Path, target: Path) -> None:
    os.link(target, tmp)


def leave_pipe(tmp: Path, target: Path) -> None:
    os.mkfifo(tmp)


@pytest.mark.parametrize(
    "leave", [leave_file, leave_unwritable_file, leave_link, leave_dangling_link, leave_hard_link, leave_pipe]
)
def test_a_leftover_of_the_same_name_is_no_obstacle(leave: Callable[[Path, Path], None], folder: int, place: Path) -> None:
    """R22."""
    target = place.parent / "target"
    target.write_bytes(b"precious")
    leave(place / "record.tmp", target)
    publish("record", b"new", folder)
    assert os.listdir(folder) == ["record"]
    assert (place / "record").read_bytes() == b"new"
    assert mode(place / "record") == 0o600
    assert (place / "record").stat().st_nlink == 1
    assert target.read_bytes() == b"precious"
    assert not (place.parent / "nowhere").exists()


def test_a_name_that_cannot_be_replaced_leaves_no_temporary_file(folder: int, place: Path) -> None:
    (place / "record").mkdir()
    with pytest.raises(OSError, match="record"):
        publish("record", b"new", folder)
    assert os.listdir(folder) == ["record"]


def test_a_planted_link_at_the_name_is_replaced_and_not_followed(folder: int, place: Path) -> None:
    """R17."""
    target = place.parent / "target"
    target.write_bytes(b"precious")
    (place / "record").symlink_to(target)
    publish("record", b"new", folder)
    assert not (place / "record").is_symlink()
    assert target.read_bytes() == b"precious"


def test_each_writer_has_a_temporary_file_of_its_own(folder: int, place: Path) -> None:
    (place / "record.another.tmp").write_bytes(b"being written")
    files.replace("record", b"new", dir_fd=folder, writer="me")
    assert sorted(os.listdir(folder)) == ["record", "record.another.tmp"]


# Modes


@pytest.mark.parametrize("value", [0, 0o077, 0o277, 0o777], ids=oct)
def test_modes_do_not_depend_on_the_umask(value: int, folder: int, place: Path) -> None:
    """S2."""
    with umask(value):
        publish("published", b"x", folder)
        os.close(files.create("created", dir_fd=folder))
        os.close(files.make_dir("made", dir_fd=folder))
    assert {path.name: mode(path) for path in place.iterdir()} == {"published": 0o600, "created": 0o600, "made": 0o700}


MAKE = """
import os, sys
from mnemo_coord.disk import files
folder = files.open_dir(sys.argv[1])
os.umask(int(sys.argv[2]))
files.publish("published", b"x", dir_fd=folder, tmp_name="t", tmp_fd=folder, durable=False)
os.close(files.create("created", dir_fd=folder))
os.close(files.make_dir("made", dir_fd=folder))
"""


@pytest.mark.parametrize("value", [0, 0o077, 0o277, 0o777], ids=oct)
def test_modes_do_not_depend_on_the_umask_for_an_ordinary_user(value: int, place: Path) -> None:
    """S2. Root passes over modes: a folder that was made without any would not trouble it."""
    argv = [*WITHOUT_CAPABILITIES, sys.executable, "-c", MAKE, str(place), str(value)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr
    assert {path.name: mode(path) for path in place.iterdir()} == {"published": 0o600, "created": 0o600, "made": 0o700}


def test_a_name_that_is_taken_is_not_created(folder: int, place: Path) -> None:
    (place / "dangling").symlink_to("nowhere")
    (place / "file").write_bytes(b"precious")
    for name in ("dangling", "file"):
        with pytest.raises(FileExistsError):
            files.create(name, dir_fd=folder)
    assert (place / "file").read_bytes() == b"precious"
    assert not (place / "nowhere").exists()


def test_making_a_folder_is_won_by_one_and_opened_by_all(folder: int, place: Path) -> None:
    found: list[int] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        fd = files.make_dir("made", dir_fd=folder)
        found.append(os.fstat(fd).st_ino)
        os.close(fd)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(place / "made").stat().st_ino] * 8


# What was planted


def plant_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def plant_dangling_link(path: Path, target: Path) -> None:
    path.symlink_to("nowhere")


def plant_link_to_folder(path: Path, target: Path) -> None:
    path.symlink_to(target.parent)


def plant_endless_link(path: Path, target: Path) -> None:
    path.symlink_to(path.name)


def plant_hard_link(path: Path, target: Path) -> None:
    os.link(target, path)


def plant_pipe(path: Path, target: Path) -> None:
    os.mkfifo(path, 0o600)


def plant_folder(path: Path, target: Path) -> None:
    path.mkdir(0o700)


def plant_socket(path: Path, target: Path) -> None:
    with socket.socket(socket.AF_UNIX) as planted:
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket has 107 bytes at most
        try:
            planted.bind(path.name)
        finally:
            os.chdir(here)


def plant_device(path: Path, target: Path) -> None:
    need_root()
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero never ends


def plant_foreign_file(path: Path, target: Path) -> None:
    need_root()
    path.write_bytes(b"theirs")
    os.chown(path, 65534, 65534)


PLANTED = [
    plant_link,
    plant_dangling_link,
    plant_link_to_folder,
    plant_endless_link,
    plant_hard_link,
    plant_pipe,
    plant_folder,
    plant_socket,
    plant_device,
    plant_foreign_file,
]


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR], ids=["read", "write", "both"])
@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_is_refused_at_once_and_left_alone(
    plant: Callable[[Path, Path], None], flags: int, folder: int, place: Path
) -> None:
    """R17, Q23."""
    target = place.parent / "target"
    target.write_bytes(b"precious")
    target.chmod(0o640)
    plant(place / "x", target)
    before, names = support.tree(place.parent), sorted(os.listdir("/proc/self/fd"))
    start = time.monotonic()
    with pytest.raises((errors.Untrusted, PermissionError)) as caught:  # a device on a file system without devices: EACCES
        files.open_regular("x", flags, dir_fd=folder)
    assert time.monotonic() - start < 1
    assert isinstance(caught.value, errors.Untrusted) or plant is plant_device
    assert "x" in str(caught.value)
    assert support.tree(place.parent) == before
    assert sorted(os.listdir("/proc/self/fd")) == names, "a descriptor stayed open"


@pytest.mark.parametrize("plant", PLANTED)
def test_reading_what_is_planted_is_refused_too(plant: Callable[[Path, Path], None], folder: int, place: Path) -> None:
    """R17."""
    target = place.parent / "target"
    target.write_bytes(b"precious")
    plant(place / "x", target)
    start = time.monotonic()
    with pytest.raises((errors.Untrusted, PermissionError)):
        files.read_bounded("x", 100, dir_fd=folder)
    assert time.monotonic() - start < 1


def test_what_is_missing_is_missing_and_what_is_ours_opens(folder: int, place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.open_regular("x", dir_fd=folder)
    (place / "x").write_bytes(b"ours")
    with files.opened(files.open_regular("x", dir_fd=folder)) as fd:
        assert os.read(fd, 10) == b"ours"
        assert not os.get_inheritable(fd)


def test_a_bell_that_is_a_link_does_not_ring_its_target(folder: int, place: Path) -> None:
    target = place.parent / "target"
    target.write_bytes(b"")
    os.utime(target, (1, 1))
    (place / "bell").symlink_to(target)
    files.ring("bell", dir_fd=folder)
    files.ring("missing", dir_fd=folder)
    assert target.stat().st_mtime == 1
    assert os.listdir(folder) == ["bell"]


# Reading


@pytest.mark.parametrize(("size", "limit"), [(0, 0), (0, 10), (9, 10), (10, 10), (5_000, 5_000)])
def test_up_to_the_limit_a_file_is_read_whole(size: int, limit: int, folder: int, place: Path) -> None:
    (place / "x").write_bytes(b"y" * size)
    assert files.read_bounded("x", limit, dir_fd=folder) == b"y" * size


@pytest.mark.parametrize(("size", "limit"), [(1, 0), (11, 10), (5_001, 5_000), (1 << 40, 1_000)])
def test_one_byte_more_is_too_large(size: int, limit: int, folder: int, place: Path) -> None:
    """I8, R15. A terabyte is refused as fast: only one byte more than the limit is read of it."""
    with (place / "x").open("wb") as stream:
        stream.truncate(size)
    with pytest.raises(errors.Damaged, match=f"larger than {limit} bytes"):
        files.read_bounded("x", limit, dir_fd=folder)


@pytest.mark.parametrize("limit", [0, 1, 99, 100, 101, 1_000])
def test_no_more_is_read_than_asked_for(limit: int, folder: int, place: Path) -> None:
    (place / "x").write_bytes(b"y" * 100)
    with files.opened(files.open_regular("x", dir_fd=folder)) as fd:
        os.lseek(fd, 50, os.SEEK_SET)
        assert files.read_at_most(fd, limit) == b"y" * min(limit, 100), "from the start, wherever the file stands"


# Folders


@pytest.mark.parametrize("bits", [0o755, 0o750, 0o701, 0o777, 0o1777], ids=oct)
def test_a_folder_that_others_may_enter_is_not_opened(bits: int, folder: int, place: Path) -> None:
    """R20."""
    (place / "x").mkdir()
    (place / "x").chmod(bits)
    for use in (files.open_dir, files.make_dir):
        with pytest.raises(errors.Untrusted, match=f"{bits:04o}"):
            use("x", dir_fd=folder)
    assert mode(place / "x") == bits


@pytest.mark.parametrize("plant", [plant for plant in PLANTED if plant is not plant_folder])
def test_what_is_no_folder_of_ours_is_not_entered(plant: Callable[[Path, Path], None], folder: int, place: Path) -> None:
    """X2."""
    target = place.parent / "target"
    target.write_bytes(b"precious")
    plant(place / "x", target)
    start = time.monotonic()
    for use in (files.open_dir, files.make_dir):
        with pytest.raises(errors.Untrusted, match="not a folder"):
            use("x", dir_fd=folder)
    assert time.monotonic() - start < 1


def test_another_users_folder_is_not_entered(folder: int, place: Path) -> None:
    """R20."""
    need_root()
    (place / "x").mkdir(0o700)
    os.chown(place / "x", 65534, 65534)
    with pytest.raises(errors.Untrusted, match="belongs to user 65534"):
        files.make_dir("x", dir_fd=folder)


def test_a_folder_renamed_away_is_still_the_one_that_was_opened(folder: int, place: Path) -> None:
    """X2."""
    place.rename(place.parent / "away")
    place.symlink_to(place.parent)
    publish("record", b"new", folder)
    assert (place.parent / "away" / "record").read_bytes() == b"new"
    assert not (place.parent / "record").exists()
