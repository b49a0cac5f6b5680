"""Starts one service or job: in a session of its own, its output through a log writer, its sockets handed over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.settings import SECRET_VARIABLE

if TYPE_CHECKING:
    import socket

__all__ = ["Output", "child_environment", "handing_over", "spawn", "spawn_shepherd"]

_HERE: Final = Path(__file__).parent
_PYTHON: Final = (sys.executable, "-I", "-S")
"""Our own scripts need nothing but the standard library."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where the output of a service goes."""

    log: Path
    who: str
    """What stands before each line: ``dev/web``."""


def child_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a child: ours without the fleet's key."""
    surroundings = os.environ if environ is None else environ
    return {name: value for name, value in surroundings.items() if name != SECRET_VARIABLE}


def handing_over(
    argv: Sequence[str], environ: Mapping[str, str], sockets: Mapping[str, socket.socket]
) -> tuple[list[str], dict[str, str], list[int]]:
    """A command, its environment and the descriptors that it inherits, so that it is given these sockets by their names.

    Raises:
        FileNotFoundError: there is no such command.
    """
    if not sockets:
        return list(argv), dict(environ), []
    if shutil.which(argv[0], path=environ.get("PATH", os.defpath)) is None:
        raise FileNotFoundError(2, os.strerror(2), argv[0])
    numbers = [one.fileno() for one in sockets.values()]
    words = [*_PYTHON, str(_HERE / "handover.py"), ",".join(map(str, numbers)), *argv]
    return words, {**environ, "LISTEN_FDNAMES": ":".join(sockets)}, numbers


def spawn(
    argv: Sequence[str], environ: Mapping[str, str], folder: Path, output: Output, sockets: Mapping[str, socket.socket]
) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    """Starts a service and its log writer. It leads a session of its own and has no descriptor but 0 to 2 and the sockets.

    Raises:
        errors.Command: it cannot be started; the message says what is missing.
    """
    with _told(argv):
        words, variables, numbers = handing_over(argv, environ, sockets)
        return _spawned(words, variables, folder, output, numbers)


def spawn_shepherd(
    argv: Sequence[str], environ: Mapping[str, str], folder: Path, output: Output, exit_file: Path, start_id: str
) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], socket.socket]:
    """Starts the shepherd of a job and its log writer. The command is started by one byte on the socket that is returned.

    Raises:
        errors.Command: it cannot be started; the message says what is missing.
    """
    import socket

    ours, theirs = socket.socketpair()
    try:
        with theirs, _told(argv):
            words = [*_PYTHON, str(_HERE / "shepherd.py"), str(exit_file), start_id, str(theirs.fileno()), *argv]
            shepherd, writer = _spawned(words, environ, folder, output, [theirs.fileno()])
    except BaseException:
        ours.close()
        raise
    return shepherd, writer, ours


@contextmanager
def _told(argv: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        cause = (getattr(error, "strerror", None) or str(error)).lower()
        raise errors.Command(f"{argv[0]}: cannot be started: {cause}", argv=list(argv), returncode=None) from None


def _spawned(
    words: Sequence[str], environ: Mapping[str, str], folder: Path, output: Output, numbers: Sequence[int]
) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    if not folder.is_dir():
        raise errors.Command(f"{folder}: is no folder", argv=list(words), returncode=None)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        service = subprocess.Popen(  # noqa: S603  # what was trusted, or typed by a person
            words,
            env=child_environment(environ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            start_new_session=True,
            pass_fds=numbers,
        )
        writer = subprocess.Popen(  # noqa: S603  # our own script
            [*_PYTHON, str(_HERE / "log_writer.py"), str(output.log), output.who],
            env={},
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    finally:
        os.close(reading)
        os.close(writing)
    return service, writer
