"""A unit of systemd for an instance, as systemd.service(5) and systemd.syntax(7) have it: a value that becomes a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mnemo_coord import errors

__all__ = ["Unit"]

_WATCHDOG = 30
"""Seconds without a word after which the launcher is taken for stuck: fifteen of its turns."""
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+,=-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """How an instance is run by a service manager."""

    project: str
    instance: str
    argv: tuple[str, ...]
    """The launcher in the foreground; its first word is an absolute path."""
    folder: str
    """Where it is started, an absolute path."""
    environ: Mapping[str, str] = field(default_factory=dict)
    ready_within: int = 30
    """Seconds that the services have, from the first start to the last that is ready."""
    grace: int = 10
    """Seconds that they have to end."""

    @property
    def file_name(self) -> str:
        """What the file is to be called."""
        return f"mnemosyne-{self.project}-{self.instance}.service"

    def text(self) -> str:
        """The whole file.

        Raises:
            errors.Config: a path or a value has a character that no unit can have.
        """
        lines = [
            "[Unit]",
            f"Description={_escaped(self.project)}: the instance {_escaped(self.instance)}",
            "",
            "[Service]",
            "Type=notify",
            f"ExecStart={_command(self.argv)}",
            f"WorkingDirectory={_escaped(_checked(self.folder))}",
            *(f"Environment={_quoted(f'{name}={value}')}" for name, value in sorted(self.environ.items())),
            f"TimeoutStartSec={self.ready_within + 15}",
            "# It ends its services itself, by proof of whose they are; the manager ends what is left.",
            "KillMode=mixed",
            f"TimeoutStopSec={self.grace + 20}",
            f"WatchdogSec={_WATCHDOG + self.grace}",
            "Restart=on-failure",
            "RestartSec=2",
            "# A usage error, an instance that is not there, one that runs already: trying again does not help.",
            "RestartPreventExitStatus=2 3 4",
            "",
            "[Install]",
            "WantedBy=default.target",
        ]
        return "\n".join(lines) + "\n"


def _command(words: Iterable[str]) -> str:
    first, *rest = words
    # In the first word a dollar is a dollar; in the others it would be a variable.
    return " ".join([_quoted(first), *(_quoted(word.replace("$", "$$")) for word in rest)])


def _quoted(text: str) -> str:
    text = _escaped(_checked(text))
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")  # a specifier


def _checked(text: str) -> str:
    if not text.isprintable():
        raise errors.Config(f"{text!r} has a character that cannot stand in a unit", hint="rename it", key="")
    return text
