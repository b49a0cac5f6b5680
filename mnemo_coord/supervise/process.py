"""A child process in the foreground: it gets our terminal and signals, and its exit code becomes ours."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from mnemo_coord import errors
from mnemo_coord.holdings.reservations import Reservations, listening_ports
from mnemo_coord.supervise.spawn import child_environment, handing_over

__all__ = ["run_in_foreground"]

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_FIRST_LOOK: Final = 0.05
_LAST_LOOK: Final = 1.0
"""Seconds between two looks whether the child listens by now: more and more."""


def run_in_foreground(
    argv: Sequence[str],
    environ: Mapping[str, str] | None = None,
    *,
    handed: Mapping[str, socket.socket] | None = None,
    reserved: Reservations | None = None,
) -> int:
    """Runs a command and returns its exit code; 128 + N where signal N ended it, as a shell says it.

    Its environment is ``environ``, by default ours, without the fleet's key. The sockets that are ``handed`` to it, by their
    names, listen already; it gets them by the protocol of LISTEN_FDS, and ours are closed. The ports that are ``reserved``
    for it are given up, each as soon as somebody listens there.

    Ctrl-C reaches the child from the terminal; what is sent to us alone is passed on. Other descriptors are not inherited, so
    a lock that is held for the child is not held by it.

    Raises:
        errors.Command: it cannot be started.
    """
    surroundings = child_environment(environ)
    with _signals_passed_on() as pass_to:
        child = _started(argv, surroundings, handed or {})
        pass_to(child)
        for listener in (handed or {}).values():
            listener.close()
        returncode = _ended(child, reserved or Reservations())
    return returncode if returncode >= 0 else 128 - returncode


def _started(argv: Sequence[str], environ: Mapping[str, str], handed: Mapping[str, socket.socket]) -> subprocess.Popen[bytes]:
    try:
        words, variables, numbers = handing_over(argv, environ, handed)
        return subprocess.Popen(words, env=variables, pass_fds=numbers)  # noqa: S603  # the person's own command
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise errors.Command(f"{argv[0]}: cannot be started: {cause.lower()}", argv=list(argv), returncode=None) from None


def _ended(child: subprocess.Popen[bytes], reserved: Reservations) -> int:
    pause = _FIRST_LOOK
    while reserved.held:
        try:
            return child.wait(pause)
        except subprocess.TimeoutExpired:
            reserved.let_go(listening_ports())
            pause = min(2 * pause, _LAST_LOOK)
    return child.wait()


@contextmanager
def _signals_passed_on() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Passes signals on to the child that is told; those that come before there is one as soon as it is."""
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, _frame: object) -> None:
        early.append(number)
        for child in children:
            while early:
                child.send_signal(early.pop())

    def pass_to(child: subprocess.Popen[bytes]) -> None:
        children.append(child)
        while early:
            child.send_signal(early.pop())

    # The terminal sends Ctrl-C to the whole foreground group; ending at it ourselves would leave the child behind.
    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield pass_to
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
