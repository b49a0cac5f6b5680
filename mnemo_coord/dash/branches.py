"""Who works on which branch: what is said of assignments and conflicts in the tables, under attention and in the event log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from mnemo_coord.dash.reading import items, text
from mnemo_coord.dash.wording import named, names, shortened

__all__ = ["Key", "close", "few", "grave", "how", "of_instances", "summary", "why"]

Key = tuple[str, str]
"""A branch, and the id of who works on it."""

_FEW: Final = 3
_NAME_WIDTH: Final = 24
_GLOB_WIDTH: Final = 32


def how(said: dict[str, Any]) -> str:
    """``write, coordinated``; ``full, alone``; ``read``, for who reads is in nobody's way."""
    intent, mode = (shortened(text(said.get(part))) or "?" for part in ("intent", "mode"))
    return intent if intent == "read" else f"{intent}, {'alone' if mode == 'isolated' else mode}"


def few(said: dict[str, Any]) -> str:
    """The first of its files, the rest counted."""
    found = said.get("files")
    globs = [glob for glob in map(text, found) if glob] if isinstance(found, list) else []
    left = len(globs) - _FEW
    return ", ".join(shortened(glob, _GLOB_WIDTH) for glob in globs[:_FEW]) + (f", and {left} more" if left > 0 else "")


def of_instances(overview: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The assignments of each instance by its id, the newest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in sorted(items(overview, "branches"), key=lambda one: text(one.get("since")), reverse=True):
        found.setdefault(text(one.get("instance_id")), []).append(one)
    return found


def summary(some: list[dict[str, Any]]) -> str:
    """What an instance's row has room for: ``main (full, alone) +1``; empty when it is on no branch."""
    if not some:
        return ""
    more = f" +{len(some) - 1}" if len(some) > 1 else ""
    return f"{shortened(text(some[0].get('branch')), _NAME_WIDTH)} ({how(some[0])}){more}"


def grave(overview: dict[str, Any]) -> list[dict[str, Any]]:
    """The conflicts that somebody should look at."""
    return [one for one in items(overview, "conflicts") if one.get("severity") != "warning"]


def why(conflict: dict[str, Any], known: dict[str, str]) -> str:
    """The reason of a conflict, which speaks of the other by its id."""
    reason, other = text(conflict.get("reason")), text(conflict.get("other"))
    return reason.replace(other, named(other, known), 1) if other else reason


def close(overview: dict[str, Any]) -> dict[Key, list[str]]:
    """Who is close to whom: the names of the others, for both."""
    known = names(overview)
    found: dict[Key, list[str]] = {}
    for one in items(overview, "conflicts"):
        if one.get("severity") == "warning":
            for own, other in _both_ways(text(one.get("instance_id")), text(one.get("other"))):
                found.setdefault((text(one.get("branch")), own), []).append(named(other, known))
    return found


def _both_ways(one: str, other: str) -> Iterable[tuple[str, str]]:
    return (one, other), (other, one)
