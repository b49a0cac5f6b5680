"""A document that people write: YAML, read strictly. What is wrong with it is told with its line and the nearest valid word."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from mnemo_coord import errors
from mnemo_coord.disk import files

__all__ = ["Section", "load"]

_LIMIT: Final = 256 * 1024
"""Bytes."""
_KINDS: Final = {str: "text", int: "a whole number", list: "a list", bool: "true or false"}
_Value = TypeVar("_Value", str, int, list[Any], bool)
_Choice = TypeVar("_Choice", bound=StrEnum)


def load(path: Path) -> Section:
    """Reads a document whose outermost value is a mapping.

    Raises:
        errors.NotFound: there is none.
        errors.Config: it is not YAML, has a key twice, or is not a mapping; the message has file and line.
        errors.State: it cannot be read.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        # O_NONBLOCK: opening a FIFO for reading would otherwise hang for ever.
        with files.opened(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as fd:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise errors.State.at(path, "is not a regular file")
            data = files.read_at_most(fd, _LIMIT + 1)
    except FileNotFoundError:
        raise errors.NotFound(f"{path}: is not there", hint="`mnemosyne init --project` writes one", path=str(path)) from None
    except OSError as error:
        raise errors.State.at(path, (error.strerror or str(error)).lower()) from None
    if len(data) > _LIMIT:
        raise errors.Config(f"{path}: is larger than {_LIMIT} bytes", key="")
    try:
        found = YAML(typ="rt").load(data)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise errors.Config(f"{path}{line}: {error.problem or error.context}", hint="see yaml.org/spec/1.2", key="") from None
    except (YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise errors.Config(f"{path}: is not YAML: {str(error).splitlines()[0]}", key="") from None
    if found is None:
        found = {}
    if not isinstance(found, Mapping):
        raise errors.Config(f"{path}:1: has to be a mapping", key="")
    return Section(path, "", found, hashlib.sha256(data).hexdigest())


class Section:
    """One mapping of a document, with where it stands."""

    def __init__(self, path: Path, key: str, values: Mapping[Any, Any], digest: str = "") -> None:
        self.path = path
        self.key = key
        self.digest = digest
        """SHA-256 of the whole document, in hex digits; empty for a part of it."""
        self._values = values

    def __iter__(self) -> Iterator[str]:
        """The names of its members, in their order."""
        for name in self._values:
            if not isinstance(name, str):
                raise self.wrong(name, f"{name!r} is not a name")
            yield name

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def line(self, name: object) -> int | None:
        """The line of a member, from 1."""
        try:
            return int(self._values.lc.key(name)[0]) + 1  # type: ignore[attr-defined]
        except (AttributeError, KeyError, TypeError):
            return None

    def wrong(self, name: object, what: str, hint: str = "") -> errors.Config:
        """The error for a member."""
        line = self.line(name)
        where = f"{self.path}:{line}" if line else str(self.path)
        key = f"{self.key}.{name}".removeprefix(".") if name is not None else self.key
        return errors.Config(f"{where}: {key}: {what}" if key else f"{where}: {what}", hint=hint, key=key)

    def only(self, *known: str) -> Section:
        """Makes sure that there is nothing else in it. Returns itself.

        Raises:
            errors.Config: there is; the hint has the nearest word.
        """
        for name in self:
            if name not in known:
                near = get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise self.wrong(name, "is not known", hint)
        return self

    def value(self, name: str, kind: type[_Value], default: _Value) -> _Value:
        """A member, or the default where it is missing.

        Raises:
            errors.Config: it is of another kind; ``true`` is no number.
        """
        if name not in self._values:
            return default
        found = self._values[name]
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise self.wrong(name, f"has to be {_KINDS[kind]}, not {found!r}")
        return found

    def choice(self, name: str, kind: type[_Choice], default: _Choice) -> _Choice:
        """A member that is one of a few words."""
        found: str = self.value(name, str, str(default))
        if found not in set(kind):
            raise self.wrong(name, f"{found!r} is none of {', '.join(kind)}")
        return kind(found)

    def texts(self, name: str) -> tuple[str, ...]:
        """A member that is a list of texts; none where it is missing."""
        found: list[Any] = self.value(name, list, [])
        if not all(isinstance(item, str) for item in found):
            raise self.wrong(name, "has to be a list of texts")
        return tuple(str(item) for item in found)

    def section(self, name: str) -> Section:
        """A member that is a mapping; an empty one where it is missing."""
        found = self._values.get(name)
        if found is None:
            found = {}
        if not isinstance(found, Mapping):
            raise self.wrong(name, "has to be a mapping")
        return Section(self.path, f"{self.key}.{name}".removeprefix("."), found)
