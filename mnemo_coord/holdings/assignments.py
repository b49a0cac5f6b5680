"""An assignment: who works on which branch, on which of its files, and beside whom.

It is what one instance holds of a branch. The lock that proves the life of its holder is also what holds it: it lasts until it
is given back or its holder is proved dead, however long that takes.

::

    branches/<id>.json    a sealed record with the assignments of one instance
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from mnemo_coord import errors
from mnemo_coord.disk import files, records
from mnemo_coord.disk.signing import Purpose
from mnemo_coord.disk.state_dir import BRANCHES
from mnemo_coord.holdings.globs import ALL, check_globs
from mnemo_coord.members.identity import is_id

if TYPE_CHECKING:
    from mnemo_coord.disk.signing import Signer
    from mnemo_coord.disk.state_dir import StateDir

__all__ = ["Assignment", "Intent", "Mode", "draft", "read", "read_all", "read_strictly"]

_LIMIT: Final = 512 * 1024
"""Bytes of a record: sixteen branches with sixty-four globs each."""


class Intent(StrEnum):
    """What it is for."""

    READ = "read"
    """To look: always admitted, and in nobody's way."""
    WRITE = "write"
    """To change the files that are named."""
    FULL = "full"
    """To change anything."""


class Mode(StrEnum):
    """Beside whom."""

    ISOLATED = "isolated"
    """Nobody else changes anything on the branch, whoever came first."""
    COORDINATED = "coordinated"
    """Others may change other files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What one instance holds of one branch."""

    branch: str
    instance_id: str
    intent: Intent
    files: tuple[str, ...]
    """Globs; for `Intent.WRITE`."""
    mode: Mode
    epoch: int = 0
    """Rises by one with each assignment of the branch, strictly; 0 while it is only wished for."""
    since: str = ""
    """RFC 3339, UTC."""
    commit: str | None = None
    """What the branch pointed to; None where there was no such branch yet."""
    admits: tuple[str, ...] = ()
    """Instances that may join although this one is in their way: it has said so."""
    bypassed: bool = False
    """Whether it was given although others were in the way: to an orchestrator."""
    due_ns: int | None = None
    """When people may be reminded of it, by the clock of the boot ``boot_id``. Nothing else happens then."""
    boot_id: str = ""

    @property
    def writes(self) -> tuple[str, ...]:
        """The globs of what it may change."""
        return {Intent.READ: (), Intent.WRITE: self.files, Intent.FULL: ALL}[self.intent]

    def to_body(self) -> dict[str, Any]:
        """As members of a record."""
        return asdict(self) | {"files": list(self.files), "admits": list(self.admits)}

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Reads one back; members that we do not know pass.

        Raises:
            ValueError: it is none.
        """
        texts = ("branch", "instance_id", "since", "boot_id")
        lists = ("files", "admits")
        if not isinstance(body, Mapping) or not all(name in body for name in cls.__slots__):
            raise ValueError("not an assignment")
        sound = (
            all(type(body.get(name)) is str for name in texts)
            and all(type(body.get(name)) is list and all(type(item) is str for item in body[name]) for name in lists)
            and type(body.get("epoch")) is int
            and type(body.get("bypassed")) is bool
            and type(body.get("commit")) in {str, type(None)}
            and type(body.get("due_ns")) in {int, type(None)}
        )
        if not sound or not is_id(body["instance_id"]):
            raise ValueError("not an assignment")
        values = {name: body[name] for name in cls.__slots__}
        found = {name: tuple(values[name]) for name in lists}
        return cls(**{**values, **found, "intent": Intent(values["intent"]), "mode": Mode(values["mode"])})


_Word = TypeVar("_Word", Intent, Mode)


def draft(
    instance_id: str, branch: str, intent: str | None = None, files: Iterable[str] = (), mode: str = Mode.ISOLATED
) -> Assignment:
    """What an instance wishes for. Without an intent: to write the files that are named, else to change anything.

    Raises:
        errors.Config: the intent, the mode or a glob is not valid, or files are named for `Intent.FULL`.
    """
    globs = check_globs(files)
    wanted = _word(Intent, "intent", intent or (Intent.WRITE if globs else Intent.FULL))
    if wanted is Intent.FULL and globs:
        raise errors.Config("full means every file", hint="`write` with --files means some", key="files")
    if wanted is Intent.WRITE and not globs:
        globs = ALL
    return Assignment(branch=branch, instance_id=instance_id, intent=wanted, files=globs, mode=_word(Mode, "mode", mode))


def _word(kind: type[_Word], key: str, word: str) -> _Word:
    try:
        return kind(word)
    except ValueError:
        raise errors.Config(f"{word!r} is not a valid {key}", hint=f"one of {', '.join(kind)}", key=key) from None


def read(state: StateDir, signer: Signer, instance_id: str) -> list[Assignment]:
    """What an instance has, dead or alive; nothing where its record is not this fleet's."""
    with suppress(OSError, errors.State, ValueError):
        return read_strictly(state, signer, instance_id)
    return []


def read_strictly(state: StateDir, signer: Signer, instance_id: str) -> list[Assignment]:
    """What an instance has, dead or alive.

    Raises:
        OSError: there is no record, or it cannot be read now.
        errors.State: it is not this fleet's.
        ValueError: it is no record of this instance.
    """
    data = files.read_bounded(f"{instance_id}.json", _LIMIT, dir_fd=state.folder(BRANCHES))
    body = records.unseal(data, signer, Purpose.BRANCH, instance_id)
    if not isinstance(body.get("assignments"), list):
        raise ValueError("not a record of assignments")
    found = [Assignment.from_body(one) for one in body["assignments"]]
    if any(one.instance_id != instance_id for one in found):
        raise ValueError("not its own")
    return found


def read_all(state: StateDir, signer: Signer) -> dict[str, list[Assignment]]:
    """What everybody has, dead or alive, by instance. Who has nothing costs nothing."""
    with suppress(OSError, errors.State):  # something else lies there: who is here is to be seen all the same
        owners = (name.removesuffix(".json") for name in state.listing(BRANCHES) if name.endswith(".json"))
        return {owner: read(state, signer, owner) for owner in owners if is_id(owner)}
    return {}
