"""Reading the JSON of strangers: whatever is missing, of another type or too long is read as something that can be shown."""

from __future__ import annotations

import math
from typing import Any, Final

from mnemo_coord.display import printable

__all__ = ["aged", "items", "member", "number", "text"]

_LONGEST: Final = 300


def text(value: Any) -> str:
    """One line that is safe to show, cut after 300 characters; empty for anything but text."""
    if not isinstance(value, str):
        return ""
    return printable(value if len(value) <= _LONGEST else f"{value[: _LONGEST - 1]}…")


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def member(value: Any, key: str) -> dict[str, Any]:
    """The object under ``key``, or an empty one."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def items(value: Any, key: str) -> list[dict[str, Any]]:
    """The objects of the list under ``key``."""
    found = value.get(key) if isinstance(value, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def aged(overview: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The overview with everything that has an age so much older: what it would say now if nothing had changed."""
    return {
        **overview,
        "instances": [_older(item, "heartbeat_age", seconds) for item in items(overview, "instances")],
        "mailboxes": [_older(item, "oldest", seconds) for item in items(overview, "mailboxes")],
    }


def _older(item: dict[str, Any], key: str, seconds: float) -> dict[str, Any]:
    age = number(item.get(key))
    return item if age is None else {**item, key: age + seconds}
