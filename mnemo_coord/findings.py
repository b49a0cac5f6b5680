"""A finding: one thing that a check found, as a value.

Every room has a ``check(…, fix=False)`` beside its state that returns findings and never prints; the doctor conducts them.
One path for looking and for mending means that a mend is always of something that was just seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

__all__ = ["Finding", "Severity"]


class Severity(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Something does not work, or must not be trusted."""
    WARNING = "warning"
    """Something is left over or odd, and should be looked at."""
    NOTICE = "notice"
    """Worth knowing; healthy all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that the doctor found."""

    code: str
    """A stable slug: a heading in docs/reference/findings.md."""
    severity: Severity
    subject: str
    """What it is about: a path relative to the state directory, an instance id, a port."""
    message: str
    """What was seen, in one line."""
    hint: str
    """What a person can do about it."""
    fixed: bool = False
    """True when this run mended it."""

    def mended(self) -> Finding:
        """The same finding, marked as fixed."""
        return replace(self, fixed=True)

    def mended_by(self, act: Callable[[], object]) -> Finding:
        """The same finding after ``act`` was tried: marked as fixed, or with what kept it from being fixed."""
        try:
            act()
        except OSError as error:
            return replace(self, hint=f"it could not be mended: {(error.strerror or str(error)).lower()}")
        return self.mended()
