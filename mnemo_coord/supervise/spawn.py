"""Starts one service: in a session of its own, its output through a log writer, its sockets handed over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.settings import SECRET_VARIABLE

if TYPE_CHECKING:
    import socket

__all__ = ["Output", "child_environment", "handing_over", "spawn"]

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
    if not folder.is_dir():
        raise errors.Command(f"{folder}: is no folder", argv=list(argv), returncode=None)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        words, variables, numbers = handing_over(argv, environ, sockets)
        service = subprocess.Popen(  # noqa: S603  # what was trusted
            words,
            env=child_environment(variables),
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
    except (OSError, ValueError) as error:
        cause = (getattr(error, "strerror", None) or str(error)).lower()
        raise errors.Command(f"{argv[0]}: cannot be started: {cause}", argv=list(argv), returncode=None) from None
    finally:
        os.close(reading)
        os.close(writing)
    return service, writer
