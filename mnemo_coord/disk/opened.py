"""A descriptor that is open for a block. Looking at a file is a few microseconds, and a generator would be one of them."""

from __future__ import annotations

import os

__all__ = ["opened"]


class opened:  # noqa: N801  # read as a verb: ``with opened(fd)``
    """Closes a descriptor at the end of a block."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
