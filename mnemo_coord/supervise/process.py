"""A child process in the foreground: it gets our terminal and signals, and its exit code becomes ours."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from mnemo_coord import errors
from mnemo_coord.settings import SECRET_VARIABLE

__all__ = ["child_environment", "run_in_foreground"]

_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def child_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a child: ours without the fleet's key."""
    surroundings = os.environ if environ is None else environ
    return {name: value for name, value in surroundings.items() if name != SECRET_VARIABLE}


def run_in_foreground(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Runs a command and returns its exit code; 128 + N where signal N ended it, as a shell says it.

    Its environment is ``environ``, by default ours, without the fleet's key.

    Ctrl-C reaches the child from the terminal; what is sent to us alone is passed on. Descriptors are not inherited, so a
    lock that is held for the child is not held by it.

    Raises:
        errors.Command: it cannot be started.
    """
    try:
        child = subprocess.Popen(list(argv), env=child_environment(environ))  # noqa: S603  # the person's own command
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise errors.Command(f"{argv[0]}: cannot be started: {cause.lower()}", argv=list(argv), returncode=None) from None
    with _passing_signals_on(child):
        returncode = child.wait()
    return returncode if returncode >= 0 else 128 - returncode


@contextmanager
def _passing_signals_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    def pass_on(number: int, _frame: object) -> None:
        child.send_signal(number)

    # The terminal sends Ctrl-C to the whole foreground group; ending at it ourselves would leave the child behind.
    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
