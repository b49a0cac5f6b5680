"""The dashboard as an application of textual: one screen over one follower."""

from __future__ import annotations

from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType

from mnemo_coord.dash.board import Board
from mnemo_coord.dash.following import Follower
from mnemo_coord.dash.source import Source

__all__ = ["Dashboard"]


class Dashboard(App[None]):
    """Shows a source until somebody quits."""

    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.animation_level = "none"
        self.follower = Follower(source)
        self._about = source.title

    def get_default_screen(self) -> Board:
        """The screen that is shown."""
        return Board(self.follower, self._about)
