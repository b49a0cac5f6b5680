"""What the unit tests share: an open state directory, its signer, an open private folder, a clock that stands still."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.fake_clock import FakeClock

from mnemo_coord.disk import files
from mnemo_coord.disk.signing import Signer
from mnemo_coord.disk.state_dir import StateDir


@pytest.fixture
def state(state_dir: Path) -> Iterator[StateDir]:
    """The test's state directory, made and open."""
    opened = StateDir.open(state_dir)
    yield opened
    opened.close()


@pytest.fixture
def signer() -> Signer:
    """Signs with a key of this test only."""
    return Signer(b"k" * 32)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """The folder ``tmp_path/folder``, private and open."""
    place = tmp_path / "folder"
    place.mkdir(mode=0o700)
    fd = files.open_dir(str(place))
    yield fd
    os.close(fd)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
