"""Folders that somebody else may be removing this instant, and what a killed writer has left in one."""

from __future__ import annotations

import os
import re
from contextlib import suppress

__all__ = ["names", "remove", "sweep"]


def names(fd: int) -> list[str]:
    """What is in an open folder, sorted; nothing once it has been removed."""
    try:
        return sorted(os.listdir(fd))
    except FileNotFoundError:
        return []


def remove(name: str, *, dir_fd: int) -> None:
    """Removes an empty folder, if it is there.

    Raises:
        OSError: it is not empty, or cannot be removed.
    """
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=dir_fd)


def sweep(dir_fd: int, name: str) -> None:
    """Removes ``name.<pid>.tmp``, which killed writers have left. Nobody may be writing one now: hold a lock for it."""
    for one in names(dir_fd):
        if re.fullmatch(rf"{re.escape(name)}\.[0-9]+\.tmp", one):
            with suppress(FileNotFoundError):
                os.unlink(one, dir_fd=dir_fd)
