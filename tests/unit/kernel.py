"""Things that a kernel or a container may forbid to a test: skipped with the reason, and never where CI runs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from functools import cache

import pytest

WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all") if os.geteuid() == 0 else ()
"""Before a command: root without the right to pass over file modes, so that a mode means what it says."""


def forbidden(reason: str) -> None:
    """Ends the test: by a skip, or by a failure in CI."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def need_root() -> None:
    if os.geteuid() != 0:
        forbidden("only root can give a file to another user or make a device")


@cache
def _unshares(options: tuple[str, ...]) -> bool:
    return subprocess.run(["unshare", *options, "true"], capture_output=True, check=False, timeout=10).returncode == 0


def unshare(*options: str) -> Sequence[str]:
    """``unshare OPTIONS`` to put before a command."""
    if not _unshares(options):
        forbidden(f"unshare {' '.join(options)} is not allowed here")
    return ["unshare", *options]
