"""A launcher in the background: started in a session of its own, and watched until its services are ready."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from mnemo_coord.supervise import tree
from mnemo_coord.supervise.spawn import child_environment
from mnemo_coord.supervise.states import State
from mnemo_coord.supervise.tenure import ServiceRecord, Tenure, look

__all__ = ["Launcher"]

_LOOK = 0.05
"""Seconds between two looks: it is another process, there is no waiting for it but looking."""


class Launcher:
    """One such process."""

    def __init__(self, process: subprocess.Popen[bytes], workspace: Path, log: Path) -> None:
        self._process, self._workspace, self._log = process, workspace, log
        self._known: Tenure | None = None

    @classmethod
    def start(cls, words: Sequence[str], workspace: Path) -> Self:
        """Starts ``mnemosyne`` with these words; what it says goes to ``logs/launcher.log`` in the workspace."""
        log = workspace / "logs" / "launcher.log"
        # It outlives whoever starts it: a service of another instance, perhaps.
        environ = {name: value for name, value in child_environment().items() if name != tree.VARIABLE}
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            argv = [sys.executable, "-m", "mnemo_coord.cli.main", *words]
            process = subprocess.Popen(  # noqa: S603  # ourselves
                argv, env=environ, stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, start_new_session=True
            )
        finally:
            os.close(fd)
        return cls(process, workspace, log)

    def changes(self) -> Iterator[tuple[str, ServiceRecord]]:
        """Every change of a service until none is starting any more, or the launcher has ended."""
        seen: dict[str, ServiceRecord] = {}
        while self._process.poll() is None:
            known = look(self._workspace)
            if known.launcher is not None and known.launcher.pid == self._process.pid and known.services:
                self._known = known
                yield from [(name, record) for name, record in known.services.items() if seen.get(name) != record]
                seen = dict(known.services)
                if not any(record.is_coming for record in known.services.values()):
                    return
            time.sleep(_LOOK)

    @property
    def exit_code(self) -> int | None:
        """That of the launcher, once it has ended."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    @property
    def is_ready(self) -> bool:
        """Whether all services are."""
        return self._known is not None and all(
            one.state in {State.READY, State.EXITED} for one in self._known.services.values()
        )

    @property
    def is_late(self) -> bool:
        """Whether one is still starting, longer than it may."""
        return self._known is not None and any(one.state is State.STARTING for one in self._known.services.values())

    def said(self) -> list[str]:
        """The lines that it wrote."""
        with suppress(OSError):
            return self._log.read_text(errors="replace").splitlines()
        return []
