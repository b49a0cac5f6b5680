"""The ``.env`` of an instance: variables that a person sets, one a line, with others' files included.

::

    source ~/.jiuwenswarm/.env         # or `. FILE`: what stands there, here. Relative to the file with this line.
    API_KEY="sk-dev-key"               # quotes and comments as python-dotenv has them; `export API_KEY=…` too
    MODEL_NAME=${BASE:-deepseek}-chat  # from what was read so far, else from the environment, else what follows :-
    COST='${not} replaced'             # nothing is, between single quotes

A later line wins. It looks like a shell's file and is not one: nothing in it is ever run, ``$(…)`` and backquotes are text.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.instances.services import VARIABLE

if TYPE_CHECKING:
    from dotenv.parser import Binding

__all__ = ["LIMIT", "read"]

LIMIT: Final = 64 * 1024
"""Bytes of one file."""
_DEPTH: Final = 8
_FILES: Final = 64
"""How many are read in all: eight levels with many lines each would otherwise never end."""
_INCLUDE: Final = re.compile(r"(?:source|\.)(?:[ \t]+(?P<file>\S.*))?")
_PLACE: Final = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}", re.ASCII)
_LITERAL: Final = re.compile(r"[^=]*=[ \t]*'")
_NEWLINE: Final = re.compile(r"\r\n|\n|\r")
_GARBAGE: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def read(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a file sets. Runs nothing, changes nothing.

    Raises:
        errors.Config: a file is missing, larger than 64 KB, no text, or includes itself; a line is none. With file and line.
        errors.State: a file cannot be read.
    """
    reading = _Reading(environ)
    reading.take(path, (), "")
    return reading.found


@dataclass(slots=True)
class _Reading:
    """What was read so far."""

    environ: Mapping[str, str]
    found: dict[str, str] = field(default_factory=dict)
    files: int = 0

    def take(self, path: Path, trail: tuple[str, ...], where: str) -> None:
        """Reads a file. ``trail`` are those that include it, ``where`` says which line does."""
        from dotenv.parser import parse_stream

        real = os.path.realpath(path)
        self.files += 1
        if real in trail:
            raise _wrong(where, f"{path} includes itself", "")
        if len(trail) >= _DEPTH or self.files > _FILES:
            raise _wrong(where, f"files are included more than {_DEPTH} deep, or more than {_FILES} of them", "")
        for binding in parse_stream(StringIO(_text(path, where), newline="")):
            self._line(binding, path, (*trail, real))

    def _line(self, binding: Binding, path: Path, trail: tuple[str, ...]) -> None:
        text = binding.original.string.lstrip()
        before = binding.original.string[: len(binding.original.string) - len(text)]
        where = f"{path}:{binding.original.line + len(_NEWLINE.findall(before))}"
        included = _INCLUDE.fullmatch(text.rstrip()) if binding.error or binding.value is None else None
        if included:
            self.take(self._file(included["file"] or "", path, where), trail, where)
        elif binding.error:
            raise _wrong(where, "is neither NAME=VALUE nor `source FILE`", "is a quote missing?")
        elif binding.key is not None and VARIABLE.fullmatch(binding.key) is None:
            raise _wrong(where, f"{binding.key!r} is not the name of a variable", "letters, digits and _")
        elif binding.key is not None and binding.value is not None:
            self.found[binding.key] = binding.value if _LITERAL.match(text) else self._filled(binding.value)

    def _file(self, word: str, path: Path, where: str) -> Path:
        try:
            words = shlex.split(word, comments=True)
        except ValueError as error:
            raise _wrong(where, f"cannot be split into words: {str(error).lower()}", "") from None
        if len(words) != 1 or not words[0]:
            raise _wrong(where, "needs one file", "source FILE")
        return path.parent / os.path.expanduser(self._filled(words[0]))

    def _filled(self, text: str) -> str:
        def fill(place: re.Match[str]) -> str:
            value = self.found.get(place["name"], self.environ.get(place["name"], ""))
            return value or place["default"] or ""  # as in a shell: `:-` is also for what is empty

        return _PLACE.sub(fill, text)


def _text(path: Path, where: str) -> str:
    try:
        # O_NONBLOCK: opening a FIFO for reading would otherwise hang for ever.
        with files.opened(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as fd:
            status = os.fstat(fd)
            data = files.read_at_most(fd, LIMIT + 1) if stat.S_ISREG(status.st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        raise _wrong(where or str(path), f"{path} is not there" if where else "is not there", "") from None
    except (OSError, ValueError) as error:
        raise errors.State.at(path, str(getattr(error, "strerror", "") or error).lower()) from None
    if data is None:
        raise _wrong(where or str(path), f"{path} is not a regular file" if where else "is not a regular file", "")
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
        hint = f"chmod go-w {path}, if it is yours"
        raise errors.Untrusted.at(path, "other users can write it, and what it says is done here", hint=hint)
    if len(data) > LIMIT:
        raise _wrong(str(path), f"is larger than {LIMIT} bytes", "")
    return _decoded(data, path)


def _decoded(data: bytes, path: Path) -> str:
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _wrong(f"{path}:{line}", "is not text in UTF-8", "") from None
    odd = _GARBAGE.search(text)
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        raise _wrong(f"{path}:{line}", f"has a byte that is no text, {odd[0]!r}", "")
    return text


def _wrong(where: str, what: str, hint: str) -> errors.Config:
    return errors.Config(f"{where}: {what}", hint=hint or "see docs/reference/instances-yaml.md", key="")
