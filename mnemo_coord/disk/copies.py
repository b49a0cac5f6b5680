"""Copies of files from one tree into another: never through a link, and never over what is there."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

__all__ = ["copy"]


def copy(source: Path, target: Path) -> bool:
    """Copies a regular file or a link, with its mode and times. False where it is neither, or ``target`` exists.

    Raises:
        OSError: it cannot be read or written.
    """
    status = os.lstat(source)
    if os.path.lexists(target) or not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)
    return True
