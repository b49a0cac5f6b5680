"""The view: ``branch_registry.json``, who works on which branch, for people and other programs.

::

    {"version":1,"branches":{"main":{"worktree":"/path"|null,"assignments":[{"instance_id":…,"intent":…,…}]},…}}

It is a copy. Nothing is decided by it, so it may be wrong for a moment after a death, and editing it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemo_coord.disk import files, records
from mnemo_coord.holdings.assignments import Assignment

if TYPE_CHECKING:
    from mnemo_coord.disk.state_dir import StateDir

__all__ = ["NAME", "BranchState", "encode", "read"]

NAME: Final = "branch_registry.json"
VERSION: Final = 1
_LIMIT: Final = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchState:
    """One branch, and who works on it."""

    branch: str
    exists: bool | None
    """Whether git has it; None where there is no repository to ask."""
    worktree: str | None
    """Where it is checked out."""
    assignments: tuple[Assignment, ...]


def encode(states: Iterable[BranchState]) -> bytes:
    """The whole file."""
    branches = {
        state.branch: {"worktree": state.worktree, "assignments": [one.to_body() for one in state.assignments]}
        for state in states
    }
    return records.encode({"version": VERSION, "branches": branches}) + b"\n"


def read(state: StateDir) -> dict[str, tuple[Assignment, ...]]:
    """Who works on which branch, by what stands in the file.

    Raises:
        FileNotFoundError: there is none.
        errors.State: it is damaged, or no file of ours.
        ValueError: it is another kind of document.
    """
    document = records.parse(files.read_bounded(NAME, _LIMIT, dir_fd=state.fd), NAME)
    branches = document.get("branches")
    if document.get("version") != VERSION or not isinstance(branches, Mapping):
        raise ValueError("not a registry of branches")
    entries = {branch: _assignments(entry) for branch, entry in branches.items()}
    return {branch: assignments for branch, assignments in entries.items() if assignments}


def _assignments(entry: object) -> tuple[Assignment, ...]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("assignments"), list):
        raise ValueError("not the entry of a branch")
    return tuple(Assignment.from_body(body) for body in entry["assignments"])
