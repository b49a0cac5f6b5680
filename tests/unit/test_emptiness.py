"""Whether a folder is empty is known by its time, and by listing it where the time may not tell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnemo_coord.disk import emptiness
from mnemo_coord.disk.emptiness import Emptiness


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    return made


@pytest.fixture
def folder(place: Path) -> Iterator[int]:
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors that were listed."""
    seen: list[int] = []
    really = os.listdir
    monkeypatch.setattr(emptiness.os, "listdir", lambda fd: seen.append(fd) or really(fd))
    return seen


def test_what_comes_and_goes_is_seen(folder: int, place: Path) -> None:
    empty = Emptiness(folder)
    for name in ("one", "two", ".hidden"):
        assert empty.holds()
        assert empty.holds()
        (place / name).touch()
        assert not empty.holds()
        assert not empty.holds()
        (place / name).unlink()
    (place / "folder").mkdir()
    assert not empty.holds()


def test_what_comes_in_the_tick_of_the_last_change_is_seen(folder: int, place: Path) -> None:
    """Its time tells nothing: the folder is listed until the tick must be over."""
    empty = Emptiness(folder)
    assert empty.holds()
    before = os.fstat(folder).st_mtime_ns
    (place / "one").touch()
    os.utime(folder, ns=(before, before))
    assert not empty.holds()


def test_a_folder_that_stays_as_it_is_is_no_longer_listed(
    folder: int, place: Path, listed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emptiness, "_COARSEST", 0.0)
    empty = Emptiness(folder)
    assert all(empty.holds() for _ in range(5))
    assert listed == [folder]
    (place / "one").touch()
    assert not empty.holds()
    (place / "one").unlink()
    assert all(empty.holds() for _ in range(5))
    assert listed == [folder] * 3


def test_a_descriptor_that_was_closed_is_no_empty_folder(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    empty = Emptiness(fd)
    assert empty.holds()
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        empty.holds()
