"""An instance as others see it: its registration, its last heartbeat and the verdict, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mnemo_coord.members.liveness import Verdict

if TYPE_CHECKING:
    from mnemo_coord.members.registration import Registration
    from mnemo_coord.members.reports import AgentReport

__all__ = ["Instance", "api_url"]


def api_url(host: str, port: int) -> str:
    """The URL of an instance's API."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One instance of the fleet. What an entry that cannot be verified says is not repeated here: only that it exists."""

    instance_id: str
    """8 hex digits, new at each start."""
    name: str | None
    """Whose place it takes, if anybody's."""
    roles: tuple[str, ...]
    """The roles under which it receives."""
    pid: int | None
    status: Verdict
    api_url: str | None
    """Where its API answers, while it lives."""
    registered_at: str | None
    """RFC 3339, UTC."""
    last_heartbeat: str | None
    """RFC 3339, UTC, by its own wall clock."""
    heartbeat_age: float | None
    """Seconds since the last heartbeat; None where that cannot be told."""
    branch: str | None
    worktree_path: str | None
    report: AgentReport | None = None
    """What it says of itself, while it lives: ``state``, ``text``, ``at``."""

    @classmethod
    def untrusted(cls, instance_id: str) -> Self:
        """An entry whose signature is not this fleet's."""
        return cls(
            instance_id=instance_id,
            name=None,
            roles=(),
            pid=None,
            status=Verdict.UNTRUSTED,
            api_url=None,
            registered_at=None,
            last_heartbeat=None,
            heartbeat_age=None,
            branch=None,
            worktree_path=None,
        )

    @classmethod
    def judged(
        cls,
        registration: Registration,
        status: Verdict,
        *,
        api_url: str | None,
        at: str | None,
        age: float | None,
        report: AgentReport | None,
    ) -> Self:
        """A registration with its verdict and heartbeat."""
        lives = status.lives
        return cls(
            instance_id=registration.instance_id,
            name=registration.name,
            roles=registration.roles,
            pid=registration.process.pid,
            status=status,
            api_url=api_url if lives else None,
            registered_at=registration.registered_at,
            last_heartbeat=at,
            heartbeat_age=age,
            branch=registration.branch,
            worktree_path=registration.worktree_path,
            report=report if lives else None,
        )
