"""How ages, sizes, times of day and instances are written."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from mnemo_coord.dash.reading import items, number, text

__all__ = ["NOTHING", "age", "lasted", "megabytes", "named", "names", "plural", "shortened", "time_of_day", "who"]

NOTHING: Final = "-"
"""Stands where there is nothing to show."""

_NAME_WIDTH: Final = 20
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def age(value: Any) -> str:
    """``7s``, ``3m``, ``2h``, ``5d``: the largest unit tells enough."""
    seconds = number(value)
    if seconds is None:
        return NOTHING
    whole = max(int(seconds), 0)
    return next((f"{whole // size}{unit}" for size, unit in _UNITS if whole >= size), "0s")


def lasted(since: Any, at: Any) -> str:
    """The age that something of ``since`` has at ``at``, both RFC 3339."""
    try:
        return age((datetime.fromisoformat(at) - datetime.fromisoformat(since)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return NOTHING


def megabytes(value: Any) -> str:
    """``41M``, ``1.2G``."""
    size = number(value)
    if size is None:
        return NOTHING
    return f"{size / 1e9:.1f}G" if size >= 1e9 else f"{size / 1e6:.0f}M"


def plural(count: Any, one: str, many: str = "") -> str:
    """``1 instance``, ``2 instances``."""
    found = int(number(count) or 0)
    return f"{found} {one}" if found == 1 else f"{found} {many or one + 's'}"


def time_of_day(at: Any) -> str:
    """The local time of an RFC 3339 timestamp: ``21:40:00``."""
    try:
        return datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S")
    except (TypeError, ValueError, OverflowError, OSError):
        return "--:--:--"


def shortened(value: str, width: int = _NAME_WIDTH) -> str:
    """Names may have 64 characters and a terminal 80."""
    return value if len(value) <= width else f"{value[: width - 1]}…"


def names(overview: dict[str, Any]) -> dict[str, str]:
    """The names of the instances that have one, by id."""
    found = {text(item.get("instance_id")): text(item.get("name")) for item in items(overview, "instances")}
    return {key: name for key, name in found.items() if key and name}


def who(instance_id: str, name: str) -> str:
    """``planner (a1b2c3d4)``, or the id alone."""
    return f"{shortened(name)} ({instance_id})" if name else instance_id or "an unknown instance"


def named(address: str, known: dict[str, str]) -> str:
    """The name of an address where it has one: that is what people call it."""
    return shortened(known.get(address, address)) or "somebody"
