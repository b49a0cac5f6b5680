"""The head of the dashboard: what is shown, how many there are, how it stands with the source."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from mnemo_coord.dash.following import Connection, Phase
from mnemo_coord.dash.reading import items, text
from mnemo_coord.dash.rows import STATUSES, Cell
from mnemo_coord.dash.wording import names, plural, who

__all__ = ["connection", "counts", "served"]


def counts(overview: dict[str, Any]) -> list[Cell]:
    """How many instances there are, and of which status, from well to ill."""
    statuses = Counter(text(item.get("status")) or "?" for item in items(overview, "instances"))
    if not statuses:
        return [Cell("nobody is here", "dim")]
    order = [*STATUSES, *sorted(statuses.keys() - STATUSES.keys())]
    each = [Cell(f"{statuses[status]} {status}", STATUSES.get(status, "")) for status in order if statuses[status]]
    return [Cell(plural(statuses.total(), "instance")), *each]


def served(overview: dict[str, Any]) -> str:
    """Whose view it is; empty when it was read from the state directory."""
    instance_id = text(overview.get("instance_id"))
    return who(instance_id, names(overview).get(instance_id, "")) if instance_id else ""


def connection(now: Connection, clock: float) -> Cell:
    """How it stands with the source."""
    if now.phase is Phase.LIVE:
        return Cell("live", "good")
    reason = f": {now.reason}" if now.reason else ""
    if now.phase is Phase.CONNECTING:
        return Cell(f"{'reconnecting' if reason else 'connecting'}{reason}", "warn")
    return Cell(f"reconnecting in {max(math.ceil(now.until - clock), 1)} s{reason}", "warn")
