"""Leftovers: files of which each instance has its own, in a folder that is theirs together, when their instance is gone.

They are called ``<id>.<suffix>``, and while they are written ``<id>.<suffix>.<pid>.tmp``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from mnemo_coord.members.identity import is_id

__all__ = ["is_being_written", "is_left_over"]


def is_left_over(name: str, lives: Callable[[str], bool]) -> bool:
    """Whether the instance that a file is of, or whoever was writing it, is gone."""
    if name.endswith(".tmp"):
        return not is_being_written(name)
    owner = name.partition(".")[0]
    return not (is_id(owner) and lives(owner))


def is_being_written(name: str) -> bool:
    """Whether the process runs that a half written file is called after."""
    pid = name.removesuffix(".tmp").rpartition(".")[2]
    return pid.isdecimal() and os.path.exists(f"/proc/{pid}")
