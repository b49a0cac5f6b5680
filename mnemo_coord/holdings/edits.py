"""Edits: which files an instance is changing in its checkout, for the others to compare with theirs.

::

    edits/<id>.json    a sealed record, replaced whole by rename, then touched: who watches the folder is told

    {"instance_id":…,"checkout":…,"repository":…,"branch":…|null,"files":[…],"more":0}

Written by the instance itself while it watches its checkout, and removed when that ends. ``checkout`` is the root of the
checkout, ``repository`` the git folder that all checkouts of it share, ``files`` are relative to the root. A name on disk is
any bytes: in these texts ``%`` and what cannot be printed, or is no UTF-8, stands as ``%XX``, byte by byte. By hand, anything
in the folder may be deleted: it comes back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self
from urllib.parse import unquote_to_bytes

from mnemo_coord import errors
from mnemo_coord.disk import files, records
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import EDITS, StateDir
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.members.identity import is_id
from mnemo_coord.members.leftovers import is_left_over

__all__ = ["Edits", "check", "drawn_up", "is_there", "meant", "read", "read_all", "remove", "spelled", "write"]

MOST_FILES: Final = 1000
_MOST_BYTES: Final = 512 * 1024
"""Of the names of the files in one record, as they are spelled."""
_RECORD_LIMIT: Final = 1024 * 1024
_SUFFIX: Final = ".json"


def spelled(path: str) -> str:
    """A path as printable text, reversibly."""
    if path.isprintable() and "%" not in path:
        return path
    return "".join(sign if sign.isprintable() and sign != "%" else _escaped(sign) for sign in path)


def _escaped(sign: str) -> str:
    return "".join(f"%{byte:02X}" for byte in sign.encode(errors="surrogateescape"))


def meant(text: str) -> str:
    """The path that `spelled` was given."""
    return unquote_to_bytes(text).decode(errors="surrogateescape") if "%" in text else text


@dataclass(frozen=True, kw_only=True, slots=True)
class Edits:
    """What an instance is changing. Paths are as `os.fsdecode` has them, not spelled."""

    instance_id: str
    checkout: str
    repository: str
    branch: str | None
    files: tuple[str, ...]
    more: int = 0
    """Files that were too many to be named."""
    known: frozenset[str] = field(default=frozenset(), compare=False)
    """The files, to look them up."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "known", frozenset(self.files))

    def to_body(self) -> dict[str, Any]:
        """As members of a record."""
        return {
            "instance_id": self.instance_id,
            "checkout": spelled(self.checkout),
            "repository": spelled(self.repository),
            "branch": None if self.branch is None else spelled(self.branch),
            "files": [spelled(path) for path in self.files],
            "more": self.more,
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Reads one back; members that we do not know pass.

        Raises:
            ValueError: it is none.
        """
        names, branch = body.get("files"), body.get("branch")
        sound = (
            all(type(body.get(name)) is str for name in ("instance_id", "checkout", "repository"))
            and type(branch) in {str, type(None)}
            and type(body.get("more")) is int
            and isinstance(names, list)
            and len(names) <= MOST_FILES
            and all(type(name) is str for name in names)
        )
        if not sound:
            raise ValueError("not a record of edits")
        return cls(
            instance_id=body["instance_id"],
            checkout=meant(body["checkout"]),
            repository=meant(body["repository"]),
            branch=None if branch is None else meant(branch),
            files=tuple(meant(name) for name in names or ()),
            more=body["more"],
        )


def drawn_up(instance_id: str, checkout: str, repository: str, branch: str | None, changed: list[str]) -> Edits:
    """The record of what is changed, with as many files as it may name."""
    room, count = _MOST_BYTES, 0
    for path in changed[:MOST_FILES]:
        room -= 3 * len(path.encode(errors="surrogateescape"))
        if room < 0:
            break
        count += 1
    named = tuple(changed[:count])
    more = len(changed) - count
    return Edits(instance_id=instance_id, checkout=checkout, repository=repository, branch=branch, files=named, more=more)


def write(state: StateDir, signer: Signer, edits: Edits) -> None:
    """Says what an instance is changing, in place of what it said before.

    Raises:
        OSError: it cannot be written.
    """
    folder, name = state.folder(EDITS), f"{edits.instance_id}{_SUFFIX}"
    tmp_name = f"{name}.{os.getpid()}.tmp"
    sealed = records.seal(edits.to_body(), signer, Purpose.EDITS)
    files.publish(name, sealed, dir_fd=folder, tmp_name=tmp_name, tmp_fd=folder, durable=False)
    files.ring(name, dir_fd=folder)


def is_there(state: StateDir, instance_id: str) -> bool:
    """Whether an instance's record is where it belongs."""
    try:
        return os.access(f"{instance_id}{_SUFFIX}", os.F_OK, dir_fd=state.folder(EDITS), follow_symlinks=False)
    except (OSError, errors.State):
        return False


def read(state: StateDir, signer: Signer, instance_id: str) -> Edits | None:
    """What an instance says that it is changing, dead or alive; None where it says nothing that is its fleet's."""
    name = f"{instance_id}{_SUFFIX}"
    with suppress(OSError, errors.State, ValueError):
        data = files.read_bounded(name, _RECORD_LIMIT, dir_fd=state.folder(EDITS))
        edits = Edits.from_body(records.unseal(data, signer, Purpose.EDITS, name))
        return edits if edits.instance_id == instance_id else None
    return None


def read_all(state: StateDir, signer: Signer) -> dict[str, Edits]:
    """What everybody says, dead or alive, by id. Who says nothing costs nothing."""
    with suppress(OSError, errors.State):  # something else lies there: the rest is to be seen all the same
        owners = (name.removesuffix(_SUFFIX) for name in state.listing(EDITS) if name.endswith(_SUFFIX))
        found = ((owner, read(state, signer, owner)) for owner in owners if is_id(owner))
        return {owner: edits for owner, edits in found if edits is not None}
    return {}


def remove(state: StateDir, instance_id: str) -> None:
    """Removes everything in the folder that is this instance's. Idempotent."""
    for name in state.listing(EDITS):
        if name.partition(".")[0] == instance_id:
            # Touched first: who watches the folder is told of what is touched, not of what is gone.
            files.ring(name, dir_fd=state.folder(EDITS))
            files.remove(name, dir_fd=state.folder(EDITS))


def check(state: StateDir, lives: Callable[[str], bool], *, fix: bool = False) -> list[Finding]:
    """What instances that are gone said, and what was half written. A record that is not ours is heeded by nobody."""
    found = []
    for name in state.listing(EDITS):
        if not is_left_over(name, lives):
            continue
        finding = Finding(
            code="leftover-edits",
            severity=Severity.WARNING,
            subject=f"{EDITS}/{name}",
            message="its instance, or whoever was writing it, is gone",
            hint="`mnemosyne doctor --fix` removes it",
        )
        found.append(finding.mended_by(partial(files.remove, name, dir_fd=state.folder(EDITS))) if fix else finding)
    return found
