"""What was made for an instance in a repository, by its record: read by many, and without asking git.

::

    worktrees/<id>.json    a sealed record, written by `worktrees` before it begins and when it is done
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import files, records
from mnemo_coord.disk.signing import Purpose
from mnemo_coord.disk.state_dir import WORKTREES
from mnemo_coord.members.identity import ProcessIdentity, is_id

if TYPE_CHECKING:
    from mnemo_coord.disk.signing import Signer
    from mnemo_coord.disk.state_dir import StateDir

__all__ = ["Made", "made_for", "made_for_all"]

_LIMIT: Final = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What was made for an instance."""

    instance_id: str
    path: str
    repository: str
    """The root of the worktree that it was added from."""
    branch: str
    base: str
    """The commit that it began at."""
    created_branch: bool
    made: bool
    """False while it is being made."""
    process: ProcessIdentity
    """Whose it is: an instance whose files are gone for a moment still runs."""

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Made:
        """Reads a record back.

        Raises:
            ValueError: it is none.
        """
        kinds = {"created_branch": bool, "made": bool, "process": dict}
        if not all(type(body.get(name)) is kinds.get(name, str) for name in cls.__slots__):
            raise ValueError("not the record of a worktree")
        process = ProcessIdentity(**{name: body["process"].get(name) for name in ProcessIdentity._fields})
        return cls(**{**{name: body[name] for name in cls.__slots__}, "process": process})


def made_for(state: StateDir, signer: Signer, instance_id: str) -> Made | None:
    """What was made for an instance, by its record; None where there is none of this fleet."""
    with suppress(OSError, errors.State, ValueError):
        data = files.read_bounded(f"{instance_id}.json", _LIMIT, dir_fd=state.folder(WORKTREES))
        made = Made.from_body(records.unseal(data, signer, Purpose.WORKTREE, instance_id))
        return made if made.instance_id == instance_id else None
    return None


def made_for_all(state: StateDir, signer: Signer) -> list[Made]:
    """What was made for anybody."""
    with suppress(OSError, errors.State):  # something else lies there: who is here is to be seen all the same
        names = (name.removesuffix(".json") for name in state.listing(WORKTREES) if name.endswith(".json"))
        found = (made_for(state, signer, name) for name in names if is_id(name))
        return [made for made in found if made is not None]
    return []
