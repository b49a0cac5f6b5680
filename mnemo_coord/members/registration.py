"""A registration: what an instance says of itself, as a value and as the members of a sealed record."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from operator import itemgetter
from typing import Any, Final, NamedTuple

from mnemo_coord.members.identity import ProcessIdentity, is_id

__all__ = ["Registration"]


class Registration(NamedTuple):
    """What an instance says of itself when it registers."""

    instance_id: str
    name: str | None
    roles: tuple[str, ...]
    registered_at: str
    """RFC 3339, UTC."""
    seq: int
    """Rises whenever its owner changes the record, so that an old copy put back is recognised."""
    api_port: int | None
    api_host: str | None
    branch: str | None
    worktree_path: str | None
    lock: tuple[int, int]
    """Device and inode of its lock file."""
    process: ProcessIdentity

    def to_body(self) -> dict[str, Any]:
        """As the members of a sealed record, in their order on disk."""
        process = self.process.to_body()
        return {
            "instance_id": self.instance_id,
            "name": self.name,
            "roles": list(self.roles),
            "pid": process.pop("pid"),
            "registered_at": self.registered_at,
            "seq": self.seq,
            "api_port": self.api_port,
            "api_host": self.api_host,
            "branch": self.branch,
            "worktree_path": self.worktree_path,
            "lock": list(self.lock),
            **process,
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Registration:
        """Reads a record back; members that we do not know pass.

        Raises:
            ValueError: a member is missing or of the wrong type.
        """
        try:
            fits = tuple(map(type, _members(body))) in _SHAPES
        except KeyError:
            fits = False
        if not fits:
            odd = [name for name, kinds in _TYPES.items() if type(body.get(name, ...)) not in kinds]
            raise ValueError(f"missing or of the wrong type: {', '.join(odd)}")
        if not is_id(body["instance_id"]) or not 0 < body["pid"] < 2**31:
            raise ValueError("instance_id or pid out of range")
        device, inode = body["lock"]
        return cls(
            instance_id=body["instance_id"],
            name=body["name"],
            roles=tuple(map(str, body["roles"])),
            registered_at=body["registered_at"],
            seq=body["seq"],
            api_port=body["api_port"],
            api_host=body["api_host"],
            branch=body["branch"],
            worktree_path=body["worktree_path"],
            lock=(int(device), int(inode)),
            process=ProcessIdentity._make(_process(body)),
        )

    def changed(self, **changes: Any) -> Registration:
        """The next version of this record."""
        return self._replace(seq=self.seq + 1, **changes)


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    **dict.fromkeys(("instance_id", "registered_at", "boot_id", "machine"), (str,)),
    **dict.fromkeys(("pid", "seq", "start_time", "pidfd_inode", "pid_namespace", "time_namespace", "uid"), (int,)),
    **dict.fromkeys(("name", "branch", "worktree_path", "api_host"), (str, type(None))),
    "api_port": (int, type(None)),
    "roles": (list,),
    "lock": (list,),
}
"""The exact types of the members: ``True`` is no number here."""

_members: Final = itemgetter(*_TYPES)
_process: Final = itemgetter(*ProcessIdentity._fields)
_SHAPES: Final = frozenset(product(*_TYPES.values()))
"""Every allowed row of types: a record of a fleet of a thousand is checked by one look at a set."""
