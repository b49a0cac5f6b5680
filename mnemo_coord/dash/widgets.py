"""The parts of the screen. They show cells, items and entries as they are given, never as markup."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Final

from rich.table import Table
from rich.text import Text
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.widgets import DataTable, RichLog, Static
from textual.widgets.data_table import ColumnKey

from mnemo_coord.dash.attention import Item
from mnemo_coord.dash.journal import LIMIT
from mnemo_coord.dash.rows import Cell, Column, Rows
from mnemo_coord.dash.sentences import Entry

__all__ = ["STYLES", "AttentionPanel", "EventLog", "KeyedTable"]

STYLES: Final = {"good": "green", "warn": "yellow", "bad": "bold red", "dim": "dim", "": ""}

_INDENT: Final = len("21:40:00  ")


class KeyedTable(DataTable[Text]):
    """A table whose rows are changed in place, so that the cursor and the scroll position stay."""

    def __init__(self, columns: Sequence[Column], *, id: str) -> None:  # noqa: A002  # textual's name for it
        super().__init__(id=id, cursor_type="row")
        self._columns = tuple(columns)
        self._cells: Rows = {}

    def on_mount(self) -> None:
        """Makes the columns."""
        for column in self._columns:
            self.add_column(Text(column.label, justify="right" if column.right else "left"), key=column.label)

    @property
    def chosen(self) -> str:
        """The key of the row under the cursor; empty when there is no row."""
        if not self.is_valid_coordinate(self.cursor_coordinate):
            return ""
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value or ""

    def show(self, rows: Rows) -> None:
        """Shows these rows: drops, changes and adds what differs."""
        chosen = self.chosen
        for key in self._cells.keys() - rows.keys():
            self.remove_row(key)
        for key, cells in rows.items():
            if key in self._cells:
                self._change(key, cells)
            else:
                self.add_row(*map(self._text, cells, self._columns), key=key)
        self._cells = dict(rows)
        self._arrange(list(rows))
        if chosen in rows:
            self.move_cursor(row=self.get_row_index(chosen), scroll=False)

    def _change(self, key: str, cells: tuple[Cell, ...]) -> None:
        for column, before, now in zip(self._columns, self._cells[key], cells, strict=True):
            if before != now:
                shown = self._text(now, column)
                # Columns grow and never shrink: to shrink one, textual measures all of its cells, and the eye loses its place.
                grows = shown.cell_len > self.columns[ColumnKey(column.label)].content_width
                self.update_cell(key, column.label, shown, update_width=grows)

    def _arrange(self, keys: list[str]) -> None:
        if [row.key.value for row in self.ordered_rows] == keys:
            return
        places = {tuple(cell.text for cell in self._cells[key]): place for place, key in enumerate(keys)}
        self.sort(key=lambda cells: places[tuple(cell.plain for cell in cells)])

    @staticmethod
    def _text(cell: Cell, column: Column) -> Text:
        return Text(cell.text, STYLES[cell.tone], justify="right" if column.right else "left", no_wrap=True, end="")


class AttentionPanel(VerticalScroll):
    """What needs attention, or that all is well."""

    def __init__(self, *, id: str) -> None:  # noqa: A002  # textual's name for it
        self._body = Static(markup=False)
        super().__init__(self._body, id=id)
        self.border_title = "Needs attention"

    def show(self, found: Sequence[Item], *, known: bool) -> None:
        """Shows the items; ``known`` is False as long as nothing has been heard at all."""
        self.border_title = f"Needs attention ({len(found)})" if found else "Needs attention"
        self.set_class(any(item.tone == "bad" for item in found), "-bad")
        self.set_class(bool(found), "-some")
        calm = Text("All is well", STYLES["good"]) if known else Text("Nothing has been heard yet", STYLES["dim"])
        self._body.update(_listed(found) if found else calm)


def _listed(found: Sequence[Item]) -> Table:
    """The items one below the other; a long one goes on under its text."""
    listed = Table.grid(padding=(0, 2, 0, 0), expand=True)
    listed.add_column(no_wrap=True, min_width=8)
    listed.add_column(ratio=1)
    for item in found:
        hint = (f"  {item.hint}", STYLES["dim"]) if item.hint else ""
        listed.add_row(Text(item.sign, STYLES[item.tone]), Text.assemble(item.text, hint))
    return listed


class EventLog(RichLog):
    """What happened, newest at the bottom."""

    DEFAULT_CSS: ClassVar[str] = "EventLog { background: transparent; scrollbar-gutter: stable; }"

    def __init__(self, *, id: str) -> None:  # noqa: A002  # textual's name for it
        super().__init__(id=id, max_lines=LIMIT, min_width=0, wrap=True, markup=False, highlight=False)
        self._shown: deque[Entry] = deque(maxlen=LIMIT)

    def on_resize(self, event: Resize) -> None:  # textual calls the one above it too
        """The lines are broken anew."""
        self.call_after_refresh(lambda: self.show(tuple(self._shown)))

    def show(self, entries: Sequence[Entry]) -> None:
        """Shows these entries and no others."""
        self.clear()
        self._shown.clear()
        self.add(entries)

    def add(self, entries: Sequence[Entry]) -> None:
        """Adds entries at the bottom."""
        self._shown.extend(entries)
        for entry in entries:
            self.write(Text.assemble((entry.at, STYLES["dim"]), "  ", self._broken(entry)))

    def _broken(self, entry: Entry) -> Text:
        """The sentence, broken so that it goes on under itself and not under the time."""
        sentence = Text(entry.text, STYLES[entry.tone])
        width = self.scrollable_content_region.width - _INDENT
        if width < _INDENT or sentence.cell_len <= width:
            return sentence
        return Text("\n" + " " * _INDENT).join(sentence.wrap(self.app.console, width))
