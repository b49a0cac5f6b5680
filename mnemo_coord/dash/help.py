"""The page of help."""

from __future__ import annotations

from typing import ClassVar, Final

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

__all__ = ["Help"]

_KEYS: Final = (
    ("/", "filter instances and events by id, name, kind or text; Enter keeps it, Escape clears it"),
    ("i", "the events of the next instance; Enter on a row chooses that one, again: everybody"),
    ("k", "the next kind of event"),
    ("p", "pause the event log, and go on with what came meanwhile"),
    ("1 2 3 4 5", "instances, mailboxes, findings, branches, memories"),
    ("tab", "move between the panels; the arrow keys move inside of one"),
    ("Escape", "clear the filter, then the choice of instance and kind"),
    ("q", "quit"),
)


class Help(ModalScreen[None]):
    """Says what the keys do."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter", "dismiss", "Close"),
    ]

    DEFAULT_CSS: ClassVar[str] = """
    Help { align: center middle; }
    Help VerticalScroll { width: 72; max-width: 90%; height: auto; max-height: 90%; padding: 0 2; background: $surface; }
    Help VerticalScroll { border: round $primary; }
    """

    def compose(self) -> ComposeResult:
        """Makes the page."""
        keys = Table.grid(padding=(0, 2, 0, 0))
        for key, does in _KEYS:
            keys.add_row(Text(key, "bold"), Text(does))
        with VerticalScroll() as page:
            page.border_title = "Keys"
            yield Static(keys, markup=False)
