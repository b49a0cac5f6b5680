"""A ledger: a short list of records that all programs of a user keep together, across projects, in one JSON file.

::

    <data>/<name>.json          {"version":1,"<name>":[…]}
    <data>/locks/<name>.lock    held for each change

``<data>`` is that of `disk.data_dir`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from mnemo_coord import errors
from mnemo_coord.disk import files, locks
from mnemo_coord.disk.data_dir import data_dir
from mnemo_coord.disk.state_dir import StateDir

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Ledger", "data_dir"]

_LIMIT: Final = 4 * 1024 * 1024
"""Bytes."""
_PATIENCE: Final = 10.0
"""Seconds."""
_Record = TypeVar("_Record", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Ledger(Generic[_Record]):
    """One such list. ``parse`` makes a record of a JSON value or raises ValueError; ``loss`` says what is lost without it."""

    name: str
    parse: Callable[[Any], _Record]
    loss: str
    folder: Path

    def all(self) -> list[_Record]:
        """Every record. Makes nothing.

        Raises:
            errors.State: the file cannot be read, or is damaged.
        """
        try:
            state = StateDir.open(self.folder, create=False)
        except errors.NotFound:
            return []
        try:
            return self._read(state)
        finally:
            state.close()

    @contextmanager
    def changing(self) -> Iterator[list[_Record]]:
        """Every record, in a list that is written back as it was left, unless an error is raised. Nobody else can change it.

        Raises:
            errors.TimedOut: another process holds it.
            errors.State: it cannot be read or written.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        state = StateDir.open(self.folder)
        try:
            with locks.hold(state, self.name, _PATIENCE):
                records = self._read(state)
                before = list(records)
                yield records
                if records != before:
                    self._write(state, records)
        finally:
            state.close()

    def _read(self, state: StateDir) -> list[_Record]:
        try:
            # Not orjson: a path may hold bytes that are no text.
            document = json.loads(files.read_bounded(f"{self.name}.json", _LIMIT, dir_fd=state.fd))
            if not isinstance(document, dict) or document.get("version") != 1 or not isinstance(document.get(self.name), list):
                raise ValueError("not version 1")
            return [self.parse(body) for body in document[self.name]]
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise errors.Damaged.at(
                state.path / f"{self.name}.json", f"is damaged ({error})", hint=f"move it away; {self.loss}"
            ) from None

    def _write(self, state: StateDir, records: list[_Record]) -> None:
        text = json.dumps({"version": 1, self.name: [asdict(one) for one in records]}, indent=1)
        files.replace(f"{self.name}.json", text.encode() + b"\n", dir_fd=state.fd, writer=str(os.getpid()))
