"""Compose files as plain data: read within bounds, tags kept, put together as Compose does, and nothing of them run.

What is read is a tree: aliases are expanded, and a file that becomes too large by that is refused (the "billion laughs").
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.instances.document import load
from mnemo_coord.instances.project import FILE, Project

__all__ = [
    "OVERRIDE",
    "RESET",
    "ComposeFile",
    "Tagged",
    "Words",
    "extends",
    "external",
    "listed",
    "mapping",
    "origin",
    "read",
    "whole",
]

RESET: Final = "!reset"
OVERRIDE: Final = "!override"
_VALUES: Final = 50_000
_DEPTH: Final = 40
_CHAIN: Final = 16
"""Services that extend each other, one behind the other."""
_VARIABLE: Final = re.compile(
    r"\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<how>:?[-?+])(?P<word>[^{}]*))?\})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value below ``!reset`` or ``!override``: it is not added to what an earlier file says."""

    tag: str
    value: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ComposeFile:
    """One compose file."""

    name: str
    """As in ``mnemosyne.yaml``, relative to the project."""
    document: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """What variables stand for in this instance, and in another one."""

    here: Mapping[str, str]
    other: Mapping[str, str]

    @property
    def swapped(self) -> Words:
        """The same, seen from the other instance."""
        return Words(here=self.other, other=self.here)

    def filled(self, value: object) -> str:
        """A value as Compose reads it in this instance."""
        return _filled(value, self.here)

    def fixed(self, value: object) -> bool:
        """Whether it is the same in another instance."""
        return _filled(value, self.here) == _filled(value, self.other)


def _filled(value: object, known: Mapping[str, str]) -> str:
    text = str(value).replace("$$", "\0")
    for _ in range(5):  # the inner ones first: ${A:-${B}}
        text = _VARIABLE.sub(lambda found: _one(found, known), text)
    return text.replace("\0", "$")


def _one(found: re.Match[str], known: Mapping[str, str]) -> str:
    value = known.get(found["plain"] or found["braced"])
    how, word = found["how"] or "", found["word"] or ""
    there = bool(value) if how.startswith(":") else value is not None
    if how.endswith("+"):
        return word if there else ""
    return (value or "") if there or not how.endswith("-") else word


# Reading


def read(project: Project) -> tuple[ComposeFile, ...]:
    """The compose files of a project.

    Raises:
        errors.Config: one is not there, is not YAML, or is too large.
        errors.State: one cannot be read.
    """
    return tuple(ComposeFile(name=name, document=_document(project.root / name)) for name in project.compose)


def _document(path: Path) -> dict[str, Any]:
    try:
        section = load(path)
    except errors.NotFound:
        raise errors.Config(f"{path}: is not there", hint=f"see compose in {FILE}", key="compose") from None
    tree = _Tree(path)
    return {name: tree.plain(section[name], 1) for name in section}


class _Tree:
    """Expands aliases, and counts what comes of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = _VALUES

    def plain(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if self._left < 0 or depth > _DEPTH:
            what = f"{self._path}: has more than {_VALUES} values or {_DEPTH} levels when its aliases are expanded"
            raise errors.Config(what, hint="it is not looked into", key="compose")
        tag = getattr(getattr(value, "tag", None), "value", None)
        found = self._untagged(value, depth)
        return Tagged(tag, found) if tag in {RESET, OVERRIDE} else found

    def _untagged(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            pairs = ((key, one) for key, one in value.items() if isinstance(key, str | int))
            return {str(key): self.plain(one, depth + 1) for key, one in pairs}
        if isinstance(value, str):
            return str(value)
        if isinstance(value, Sequence):
            return [_bare(self.plain(one, depth + 1)) for one in value]
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return int(value)
        scalar = getattr(value, "value", None)  # of a scalar with a tag
        return str(scalar) if isinstance(scalar, str) else None  # a date, a set: nothing that is looked at here


def _bare(value: Any) -> Any:
    return value.value if isinstance(value, Tagged) else value


# Putting together


def mapping(value: Any) -> dict[str, Any]:
    """A value where a mapping is expected; an empty one where it is none."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """A value where a list is expected; an empty one where it is none."""
    return value if isinstance(value, list) else []


def external(one: Any) -> bool:
    """Whether a network, a volume, a config or a secret is made by somebody else."""
    said = mapping(one).get("external")
    return said is not None and str(said).lower() != "false"


def whole(files: Sequence[ComposeFile]) -> dict[str, Any]:
    """One document of all: what services extend and what later files say included.

    Raises:
        errors.Config: it becomes too large.
    """
    names = {os.path.normpath(file.name): file for file in files}
    found: dict[str, Any] = reduce(_merged, (_extended(file, names) for file in files), {})
    return found


def _merged(base: Any, own: Any) -> Any:
    """Mappings by key, lists one behind the other, else the later one."""
    if isinstance(own, Tagged):
        return None if own.tag == RESET else _merged({} if isinstance(own.value, dict) else None, own.value)
    if isinstance(own, dict):
        found = dict(mapping(base))
        for key, value in own.items():
            found[key] = _merged(found.get(key), value)
            if isinstance(value, Tagged) and value.tag == RESET:
                del found[key]
        return found
    if isinstance(base, list) and isinstance(own, list):
        return [*base, *own]
    return base if own is None else own


def _extended(file: ComposeFile, names: Mapping[str, ComposeFile]) -> dict[str, Any]:
    """A document whose services have what they extend. What each gets is counted: thousands may extend a large one."""
    found, size = {}, 0
    for name in mapping(file.document.get("services")):
        found[name] = _service(file, name, names, ())
        size += _size(found[name])
        if size > _VALUES:
            what = f"{file.name}: its services have more than {_VALUES} values with what they extend"
            raise errors.Config(what, hint="it is not looked into", key="compose")
    return {**file.document, "services": found}


def _size(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else listed(value)
    return 1 + sum(map(_size, inner))


def _service(file: ComposeFile, name: str, names: Mapping[str, ComposeFile], before: tuple[tuple[str, str], ...]) -> Any:
    own = mapping(file.document.get("services")).get(name)
    base, parent = extends(file, mapping(own))
    there = names.get(base)
    if there is None or not parent or (base, parent) in before or len(before) >= _CHAIN:
        return own
    inherited = _merged({}, _service(there, parent, names, (*before, (base, parent))))
    tags = {key: value for key, value in mapping(own).items() if isinstance(value, Tagged)}
    return {**_merged(inherited, own), **tags}  # they count for what an earlier file says as well


def extends(file: ComposeFile, service: Mapping[str, Any]) -> tuple[str, str]:
    """The file and the service that a service extends; the file is its own where none is named."""
    said = service.get("extends")
    if isinstance(said, str):
        return os.path.normpath(file.name), said
    named = mapping(said).get("file")
    path = os.path.join(os.path.dirname(file.name), str(named)) if named else file.name
    return os.path.normpath(path), str(mapping(said).get("service") or "")


def origin(files: Sequence[ComposeFile], section: str, name: str, key: str = "", entry: Any = None) -> str:
    """The file that something stands in: the last that has the entry, else the key, else the name."""

    def rank(file: ComposeFile) -> int:
        own = mapping(file.document.get(section)).get(name)
        value = mapping(_bare(own)).get(key)
        there = entry is not None and entry in listed(_bare(value))
        return (own is not None) + (value is not None) + there

    return max(reversed(files), key=rank).name
