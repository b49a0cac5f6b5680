"""Where the dashboard gets its data from: a source, which yields frames until it is closed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from mnemo_coord.client import Frame

__all__ = ["EVENT", "GAP", "SNAPSHOT", "Source"]

SNAPSHOT = "snapshot"
EVENT = "event"
GAP = "gap"


class Source(Protocol):
    """A view of the fleet that can be followed."""

    @property
    def title(self) -> str:
        """What it shows: a URL, a path."""

    def follow(self) -> Iterator[Frame]:
        """Yields frames until closed. Blocks, so it is called in a thread; called again to connect again.

        Raises:
            errors.CoordinationError: it cannot go on.
        """

    def close(self) -> None:
        """Makes `follow` end soon, also one that is called later. Called from another thread, perhaps twice."""
