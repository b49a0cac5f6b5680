"""mnemo_coord: many running copies of a program on one machine, out of each other's way and able to talk.

    >>> from mnemo_coord import Coordinator

Everything public is named here and loaded when it is first used, so that importing the package costs almost nothing.
"""

from __future__ import annotations

# Importing typing would double the time of importing this package; type checkers take this name for what it says.
TYPE_CHECKING = False

__version__ = "0.1.0"

if TYPE_CHECKING:
    from typing import Any

    from mnemo_coord.branch_work import BranchWork
    from mnemo_coord.coordinator import Coordinator
    from mnemo_coord.doctor import Report
    from mnemo_coord.errors import CoordinationError
    from mnemo_coord.events import Event, EventKind
    from mnemo_coord.findings import Finding, Severity
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.holdings.assignments import Assignment
    from mnemo_coord.holdings.branch_view import BranchState
    from mnemo_coord.holdings.claims import Claim
    from mnemo_coord.holdings.occupancy import BranchConflict
    from mnemo_coord.holdings.owner import OwnerLock
    from mnemo_coord.holdings.worktrees import Worktree
    from mnemo_coord.instances.scope import Scope, scope
    from mnemo_coord.members.instance import Instance
    from mnemo_coord.members.liveness import Verdict
    from mnemo_coord.members.reports import AgentReport, AgentState
    from mnemo_coord.memory.links import MemoryLink
    from mnemo_coord.memory.memories import Memories
    from mnemo_coord.memory.memory import Memory
    from mnemo_coord.messages.delivery import Delivery, Failure, Receipt
    from mnemo_coord.messages.message import Message
    from mnemo_coord.settings import Settings

_HOME = {
    "AgentReport": "members.reports",
    "AgentState": "members.reports",
    "Assignment": "holdings.assignments",
    "BranchConflict": "holdings.occupancy",
    "BranchState": "holdings.branch_view",
    "BranchWork": "branch_work",
    "Claim": "holdings.claims",
    "CoordinationError": "errors",
    "Coordinator": "coordinator",
    "Delivery": "messages.delivery",
    "Event": "events",
    "EventKind": "events",
    "Failure": "messages.delivery",
    "Finding": "findings",
    "Fleet": "fleet",
    "Instance": "members.instance",
    "Memories": "memory.memories",
    "Memory": "memory.memory",
    "MemoryLink": "memory.links",
    "Message": "messages.message",
    "OwnerLock": "holdings.owner",
    "Receipt": "messages.delivery",
    "Report": "doctor",
    "Scope": "instances.scope",
    "Settings": "settings",
    "Severity": "findings",
    "Verdict": "members.liveness",
    "Worktree": "holdings.worktrees",
    "scope": "instances.scope",
}

__all__ = [
    "AgentReport",
    "AgentState",
    "Assignment",
    "BranchConflict",
    "BranchState",
    "BranchWork",
    "Claim",
    "CoordinationError",
    "Coordinator",
    "Delivery",
    "Event",
    "EventKind",
    "Failure",
    "Finding",
    "Fleet",
    "Instance",
    "Memories",
    "Memory",
    "MemoryLink",
    "Message",
    "OwnerLock",
    "Receipt",
    "Report",
    "Scope",
    "Settings",
    "Severity",
    "Verdict",
    "Worktree",
    "__version__",
    "scope",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
