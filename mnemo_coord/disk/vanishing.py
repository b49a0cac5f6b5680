"""Folders that somebody else may be removing this instant."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["names", "remove"]


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
