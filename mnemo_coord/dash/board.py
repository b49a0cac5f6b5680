"""The one screen of the dashboard: it takes what the follower brings and hands it to the panels."""

from __future__ import annotations

import time
from typing import Any, ClassVar, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static, TabbedContent, TabPane

from mnemo_coord.dash import rows, summary
from mnemo_coord.dash.attention import attention
from mnemo_coord.dash.following import Follower
from mnemo_coord.dash.help import Help
from mnemo_coord.dash.reading import text
from mnemo_coord.dash.sentences import Entry
from mnemo_coord.dash.view import View
from mnemo_coord.dash.widgets import STYLES, AttentionPanel, EventLog, KeyedTable

__all__ = ["Board"]

_DRAIN: Final = 0.1
_TICK: Final = 1.0
_TABS: Final = {
    "instances": rows.INSTANCES,
    "mailboxes": rows.MAILBOXES,
    "findings": rows.FINDINGS,
    "branches": rows.BRANCHES,
    "memories": rows.MEMORIES,
}


class Board(Screen[None], inherit_bindings=False):
    """Shows one view of the fleet."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "app.quit", "Quit"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("i", "next_instance", "Instance"),
        Binding("k", "next_kind", "Kind"),
        Binding("p", "pause", "Pause"),
        Binding("tab", "app.focus_next", "Focus", key_display="tab"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("shift+tab", "app.focus_previous", show=False),
        Binding("escape", "clear", show=False),
        *(Binding(str(number), f"tab('{name}')", show=False) for number, name in enumerate(_TABS, 1)),
    ]

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (180, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]

    DEFAULT_CSS: ClassVar[str] = """
    Board #head { height: auto; padding: 0 1; background: $panel; }
    Board #attention { height: auto; max-height: 25%; border-top: solid $success; padding: 0 1; }
    Board #attention.-some { border-top: solid $warning; }
    Board #attention.-bad { border-top: solid $error; }
    Board #main { height: 1fr; layout: vertical; }
    Board TabbedContent { height: 3fr; }
    Board TabPane { padding: 0; }
    Board KeyedTable { height: 1fr; background: transparent; }
    Board #log { height: 2fr; border-top: solid $primary; }
    Board #events { padding: 0 1; }
    Board #log:focus-within, Board #attention:focus { border-top: heavy $accent; }
    Board KeyedTable, Board #events, Board #attention { scrollbar-size: 1 1; }
    Board.-short KeyedTable { scrollbar-size-horizontal: 0; }
    Board.-short Tabs { height: 1; }
    Board.-short Underline { display: none; }
    Board #words { display: none; }
    Board.-filtering #words { display: block; }
    Board.-wide #main { layout: horizontal; }
    Board.-wide TabbedContent { width: 3fr; height: 1fr; }
    Board.-wide #log { width: 2fr; height: 1fr; }
    """

    def __init__(self, follower: Follower, title: str) -> None:
        super().__init__()
        self._follower = follower
        self._about = text(title)
        self._view = View()

    def compose(self) -> ComposeResult:
        """Makes the panels."""
        yield Static(id="head", markup=False)
        yield AttentionPanel(id="attention")
        with Container(id="main"):
            with TabbedContent(initial="instances-tab"):
                for name, columns in _TABS.items():
                    with TabPane(name.capitalize(), id=f"{name}-tab"):
                        yield KeyedTable(columns, id=name)
            with Vertical(id="log"):
                yield EventLog(id="events")
        yield Input(placeholder="id, name, kind or text", compact=True, id="words")
        yield Footer()

    def on_mount(self) -> None:
        """Starts the clocks, and to follow."""
        self._show_overview()
        self._show_events()
        self._table("instances").focus()
        self.set_interval(_DRAIN, self._drain)
        self.set_interval(_TICK, self._show_overview)
        self._follower.start()

    def on_unmount(self) -> None:
        """Lets go of the source."""
        self._follower.stop()

    def action_filter(self) -> None:
        """Asks for words."""
        self.add_class("-filtering")
        self.query_one("#words", Input).focus()

    def action_clear(self) -> None:
        """Drops the filter."""
        self._view.clear()
        words = self.query_one("#words", Input)
        with words.prevent(Input.Changed):
            words.value = ""
        self._leave_words()
        self._show_everything()

    def action_next_instance(self) -> None:
        """The events of the next instance."""
        self._view.next_instance()
        self._show_events()

    def action_next_kind(self) -> None:
        """The next kind of event."""
        self._view.next_kind()
        self._show_events()

    def action_pause(self) -> None:
        """Pauses the event log, or goes on with it."""
        self._view.journal.toggle()
        self._show_events()

    def action_tab(self, name: str) -> None:
        """Shows another table."""
        self.query_one(TabbedContent).active = f"{name}-tab"
        self._table(name).focus()

    def action_help(self) -> None:
        """Says what the keys do."""
        self.app.push_screen(Help())

    def on_input_changed(self, changed: Input.Changed) -> None:
        """Filters while somebody types."""
        self._view.look_for(changed.value)
        self._show_everything()

    def on_input_submitted(self) -> None:
        """Keeps the filter."""
        self._leave_words()

    def on_data_table_row_selected(self, chosen: DataTable.RowSelected) -> None:
        """The events of the instance in this row."""
        if chosen.data_table.id == "instances" and chosen.row_key.value:
            self._view.choose(chosen.row_key.value)
            self._show_events()

    def _leave_words(self) -> None:
        self.set_class(bool(self._view.filter.words), "-filtering")
        if self.focused is self.query_one("#words", Input):
            self._table(self._open()).focus()

    def _open(self) -> str:
        return self.query_one(TabbedContent).active.removesuffix("-tab")

    def _table(self, name: str) -> KeyedTable:
        return self.query_one(f"#{name}", KeyedTable)

    def _drain(self) -> None:
        """Takes what came. However much it is, each panel is shown once."""
        came = self._follower.take()
        if not came:
            return
        recalled = self._view.recalled
        heard = [self._view.hear(item) for item in came]
        new = [entry for entry in heard if entry is not None]
        if recalled != self._view.recalled:
            self._show_events()
        elif new:
            self._add_events([entry for entry in new if self._view.filter.passes(entry)])
        if len(new) < len(heard):
            self._show_overview()

    def _add_events(self, new: list[Entry]) -> None:
        if not self._view.journal.paused:
            self.query_one("#events", EventLog).add(new)
        self._show_log_title()

    def _show_everything(self) -> None:
        self._show_overview()
        self._show_events()

    def _show_overview(self) -> None:
        overview = self._view.overview()
        shown = {"instances": self._view.instances(overview), "mailboxes": rows.mailboxes(overview)}
        shown |= {"findings": rows.findings(overview), "branches": rows.branches(overview), "memories": rows.memories(overview)}
        existing = {"instances": len(overview["instances"]), "memories": rows.memories_there_are(overview)}
        for name, found in shown.items():
            self._table(name).show(found)
            self._label(name, len(found), existing.get(name, len(found)))
        self.query_one("#attention", AttentionPanel).show(attention(overview), known=self._view.known)
        self._show_head(overview)

    def _label(self, name: str, shown: int, existing: int) -> None:
        count = str(existing) if shown == existing else f"{shown} of {existing}"
        tab = self.query_one(TabbedContent).get_tab(f"{name}-tab")
        label = f"{name.capitalize()} {count}"
        if tab.label_text != label:
            tab.label = label

    def _show_head(self, overview: dict[str, Any]) -> None:
        state = summary.connection(self._view.connection, time.monotonic())
        live = self._view.connection.live
        head = Table.grid(expand=True, padding=(0, 1))
        head.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        head.add_column(justify="right", no_wrap=True)
        head.add_row(self._title(overview), _styled([state]) if live else "")
        if self._view.known:
            head.add_row(_styled(summary.counts(overview)), f"as of {self._view.at}")
        self.query_one("#head", Static).update(head if live else Group(head, _styled([state])))

    def _title(self, overview: dict[str, Any]) -> Text:
        of = summary.served(overview)
        return Text.assemble(("mnemosyne", "bold"), f"  {self._about}", (f"  {of}" if of else "", STYLES["dim"]))

    def _show_events(self) -> None:
        self.query_one("#events", EventLog).show(self._view.journal.shown(self._view.filter))
        self._show_log_title()

    def _show_log_title(self) -> None:
        self.query_one("#log").border_title = Text(self._view.log_title())


def _styled(cells: list[rows.Cell]) -> Text:
    return Text("  ").join(Text(cell.text, STYLES[cell.tone]) for cell in cells)
