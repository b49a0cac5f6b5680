"""Whole folders, with what is below them: what there is, and removing it without ever leaving it.

A link is an entry like others: what it leads to is not looked at. What is mounted somewhere below is another file system's.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Tree", "measure", "remove"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """What is in a folder."""

    files: int
    """All that are no folders."""
    size: int
    """Bytes."""
    mounted: tuple[str, ...]
    """Folders below it at which another file system begins."""


def measure(path: Path) -> Tree:
    """What is in a folder and below; nothing where there is none.

    Raises:
        OSError: a folder cannot be read.
    """
    if not os.path.lexists(path):
        return Tree(files=0, size=0, mounted=())
    device, count, size, mounted, ahead = os.lstat(path).st_dev, 0, 0, [], [str(path)]
    while ahead:
        with os.scandir(ahead.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if status.st_dev != device:
                    mounted.append(entry.path)
                elif stat.S_ISDIR(status.st_mode):
                    ahead.append(entry.path)
                else:
                    count, size = count + 1, size + status.st_size
    return Tree(files=count, size=size, mounted=tuple(mounted))


def remove(path: Path) -> None:
    """Removes a folder with all that is in it; never through a link, also when one is put there meanwhile.

    Raises:
        OSError: something in it cannot be removed, or it is a link.
    """
    import shutil

    shutil.rmtree(path)  # goes down by open folders, where the system has them
