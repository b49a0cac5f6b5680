"""The hook that guards commits, as text: a few lines of shell, known by the second one, which has a sum of the rest.

It runs what was there before, then asks ``mnemosyne hooks check``. Only a guard that works says no: a 1 of an interpreter that
is broken, or of a version that has no such command, is none, and the commit passes with a warning.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from dataclasses import dataclass
from typing import Final

__all__ = ["MARK", "Ours", "parse", "render"]

MARK: Final = b"# mnemosyne guards commits ["
"""Stands in nobody else's hook."""
_OURS: Final = re.compile(
    rb"#!/bin/sh\n# mnemosyne guards commits \[(?P<sum>[0-9a-f]{64})\][^\n]*\n"
    rb"(?P<rest># Folders made for it: (?P<folders>[0-9]{1,3})\.\nbefore=(?P<before>[a-z0-9.-]*)\n.*)",
    re.DOTALL,
)

_SCRIPT: Final = """\
# Folders made for it: {folders}.
before={before}
mnemosyne={command}
if [ -n "$before" ] && [ -x "${{0%/*}}/$before" ]; then
    "${{0%/*}}/$before" "$@" || exit $?
fi
[ -x "$mnemosyne" ] || mnemosyne=mnemosyne
if ! command -v "$mnemosyne" >/dev/null; then
    echo 'mnemosyne: the commit is not checked: mnemosyne is not to be found' >&2
    exit 0
fi
"$mnemosyne" hooks check{options}
code=$?
case $code in
0 | 129 | 130 | 143) exit $code ;;
1) "$mnemosyne" hooks --help >/dev/null 2>&1 && exit 1 ;;
esac
echo "mnemosyne: the commit is not checked: mnemosyne does not run (exit code $code)" >&2
exit 0
"""


@dataclass(frozen=True, slots=True)
class Ours:
    """What our hook says of itself."""

    before: str
    """The name of what was there before, empty where nothing was."""
    folders: int
    """How many folders were made to put it in."""


def render(before: str, folders: int, command: str, state_dir: str | None = None) -> bytes:
    """The hook. ``before`` is the name of what runs first, or empty; ``folders`` is how many were made to put it in."""
    options = f" --dir {shlex.quote(state_dir)}" if state_dir else ""
    rest = os.fsencode(
        _SCRIPT.format(before=before, folders=folders, command=shlex.quote(command) if command else "", options=options)
    )
    mark = MARK + hashlib.sha256(rest).hexdigest().encode() + b"]: `mnemosyne hooks uninstall` puts back what was here before"
    return b"#!/bin/sh\n" + mark + b"\n" + rest


def parse(data: bytes) -> Ours | None:
    """What ours says of itself; None where it is not ours, or not as it was written."""
    found = _OURS.fullmatch(data)
    if found is None or hashlib.sha256(found["rest"]).hexdigest().encode() != found["sum"]:
        return None
    return Ours(found["before"].decode(), int(found["folders"]))
