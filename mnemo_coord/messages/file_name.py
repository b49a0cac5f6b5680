"""The file name of a message: its place in the order, its id, and which delivery it stands for.

::

    <stamp>-<rest>.json        as published; <stamp> are 16 hex digits that rise with each message of a sender
    <stamp>-<rest>~2.json      given back by its first receiver: the second delivery, at the same place in the order
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["PATTERN", "delivery_of", "file_of", "ids_of", "is_message", "is_of", "next_delivery", "stamp_of"]

PATTERN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,159}?(?:~([1-9][0-9]{0,8}))?\.json", re.ASCII)
_STAMP: Final = 16


def is_message(file: str) -> bool:
    """Whether a name is that of a message; what has another is left alone."""
    return PATTERN.fullmatch(file) is not None


def file_of(stamp: int, message_id: str) -> str:
    """The name of a message at its first delivery. An id that begins with the stamp, as ours do, has it once."""
    prefix = f"{stamp:0{_STAMP}x}-"
    return f"{message_id if message_id.startswith(prefix) else prefix + message_id}.json"


def is_of(file: str, message_id: str) -> bool:
    """Whether a name is one that `file_of` gave to a message with this id, or that of a later delivery."""
    return message_id in ids_of(file)


def ids_of(file: str) -> tuple[str, ...]:
    """The ids that the message in a file may have, by its name: one given by its sender stands behind the stamp."""
    stem = file.removesuffix(".json").partition("~")[0]
    return (stem,) if stamp_of(file) is None else (stem, stem[_STAMP + 1 :])


def delivery_of(file: str) -> int:
    """Which delivery of its message a name stands for; 0 for a name that is no message's."""
    match = PATTERN.fullmatch(file)
    return int(match[1] or 1) if match else 0


def next_delivery(file: str) -> str:
    """The name that a message has when it is delivered once more."""
    stem = file.removesuffix(".json").partition("~")[0]
    return f"{stem}~{delivery_of(file) + 1}.json"


def stamp_of(file: str) -> int | None:
    """The stamp that a name begins with: the wall clock of its sender in nanoseconds, or a little later; None without one."""
    stamp, separator, _ = file.partition("-")
    if not separator or len(stamp) != _STAMP or not set(stamp) <= set("0123456789abcdef"):
        return None
    return int(stamp, 16)
