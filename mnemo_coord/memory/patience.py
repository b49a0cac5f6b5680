"""Patience: trying again while others have the lock, with growing, random pauses, up to a total time.

The pauses double from the first to the longest, and each is drawn between nothing and that: of many who wait, no two go on in
step ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015: full jitter).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from mnemo_coord import errors

__all__ = ["BusyError", "Patience", "Wait"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.1
"""Seconds."""


class BusyError(Exception):
    """Somebody else has the lock: what was tried may be tried again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Something that had to be tried again."""

    seconds: float
    tries: int
    done: bool
    """False where the time was over first."""


class Patience:
    """Tries for ``timeout`` seconds; ``what`` names what is waited for."""

    def __init__(self, timeout: float, what: Callable[[], str]) -> None:
        self._timeout = timeout
        self._what = what
        self.told: Callable[[Wait], None] | None = None
        """Is told of each wait."""

    def until_done(self, attempt: Callable[[], _T]) -> _T:
        """What ``attempt`` returns when it does not raise `BusyError`.

        Raises:
            errors.TimedOut: it did so for all that time.
        """
        began = time.monotonic()
        with suppress(BusyError):
            return attempt()
        return self._again(attempt, began)

    def _again(self, attempt: Callable[[], _T], began: float) -> _T:
        import tenacity  # only who has to wait pays for loading it

        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(BusyError),
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE),
            stop=tenacity.stop_after_delay(max(0.0, self._timeout - (time.monotonic() - began))),
            reraise=True,
        )
        done = False
        try:
            found = tries(attempt)
            done = True
        except BusyError:
            hint = "another process holds it; wait, write less at once, or raise MNEMOSYNE_DB_TIMEOUT"
            what = f"{self._what()}: others were writing for {self._timeout:g} s"
            raise errors.TimedOut(what, hint=hint, timeout=self._timeout, path=self._what()) from None
        finally:
            again = int(tries.statistics.get("attempt_number", 0))
            self._tell(Wait(seconds=round(time.monotonic() - began, 3), tries=1 + again, done=done))
        return found

    def _tell(self, wait: Wait) -> None:
        _log.debug("Waited %.3f s for %s, %d tries", wait.seconds, self._what(), wait.tries)
        if self.told is not None:
            self.told(wait)
