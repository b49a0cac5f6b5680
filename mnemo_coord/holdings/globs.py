"""Globs: which files somebody means to change, and whether two of them could mean the same file.

A glob is a path from the root of the repository: ``*`` and ``?`` stand for characters of one name, ``**`` for any folders,
``[…]`` and ``{…}`` for anything that they could mean. A name without an extension stands for a file, or for everything in a
folder, as does one with a slash at its end. Whether two globs overlap is decided on the globs alone, without looking at a
disk: files are made while agents work. Where it cannot be told they overlap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from mnemo_coord import errors

__all__ = ["ALL", "check_globs", "is_critical", "matches", "near", "overlap"]

ALL: Final = ("**",)
"""Every file."""
_LENGTH_LIMIT: Final = 256
_COUNT_LIMIT: Final = 64
_WILD: Final = re.compile(r"[*?\[{]")
_TOKENS: Final = re.compile(r"\*+|\?|\[[^\]]+\]|\{[^}]+\}|.", re.DOTALL)

Segments = tuple[str, ...]


def check_globs(globs: Iterable[str]) -> tuple[str, ...]:
    """Returns the globs in their plain form, each once.

    Raises:
        errors.Config: one is empty, absolute, leads out of the repository, is too long, or there are too many.
    """
    if isinstance(globs, str):
        raise errors.Config(f"files are a list of globs, not {globs!r}", key="files")
    checked = tuple(dict.fromkeys(_checked(glob) for glob in globs))
    if len(checked) > _COUNT_LIMIT:
        raise errors.Config(f"{len(checked)} globs are given, {_COUNT_LIMIT} are allowed", hint="name folders", key="files")
    return checked


def _checked(glob: str) -> str:
    if not isinstance(glob, str) or not glob.isprintable() or not 0 < len(glob.encode(errors="replace")) <= _LENGTH_LIMIT:
        hint = f"1 to {_LENGTH_LIMIT} bytes of printable text"
        raise errors.Config(f"{glob!r} is not a glob", hint=hint, key="files")
    names = [name for name in glob.split("/") if name not in {"", "."}]
    if glob.startswith("/") or ".." in names or not names:
        hint = "a path from the root of the repository, such as src/** or docs/index.md"
        raise errors.Config(f"{glob!r} does not lie in the repository", hint=hint, key="files")
    return "/".join([*names, "**"] if glob.endswith("/") else names)


def overlap(first: str, second: str) -> bool:
    """Whether there could be a file that both mean."""
    return _meet(_segments(first), _segments(second))


def matches(glob: str, path: str) -> bool:
    """Whether a glob means a file, whatever characters its name has."""
    return _meet(_segments(glob), tuple(_WILD.sub("\0", name) for name in path.split("/")))


def near(first: str, second: str) -> bool:
    """Whether both mean files in the same folder, or one in a folder below the other's."""
    shorter, longer = sorted((_folder(first), _folder(second)), key=len)
    return longer[: len(shorter)] == shorter if shorter else not longer


def is_critical(glob: str, critical: Iterable[str]) -> bool:
    """Whether a glob names critical files. One that merely could mean some, as ``**`` does, is not called critical."""
    return any(matches(pattern, glob) for pattern in critical)


def _folder(glob: str) -> Segments:
    """The folder in which what a glob means lies, as far as it is named."""
    names = glob.split("/")
    wild = next((index for index, name in enumerate(names) if _WILD.search(name)), len(names) - 1)
    return tuple(names[:wild])


def _segments(glob: str) -> Segments:
    names = glob.split("/")
    may_be_a_folder = not _WILD.search(names[-1]) and "." not in names[-1][1:]
    return tuple([*names, "**"] if may_be_a_folder else names)


@lru_cache(4096)
def _meet(first: Segments, second: Segments) -> bool:
    """Whether there is a path that both match. The product of two small automata, as for regular expressions."""
    for one, other in ((first, second), (second, first)):
        if one and one[0] == "**":
            return _meet(one[1:], other) or (bool(other) and _meet(one, other[1:]))
    if not first or not second:
        return not first and not second
    return _names_meet(_tokens(first[0]), _tokens(second[0])) and _meet(first[1:], second[1:])


@lru_cache(1024)
def _tokens(name: str) -> Segments:
    """A name as characters, ``?`` for any one and ``*`` for any number of them."""
    kinds = {"*": "*", "?": "?", "[": "?", "{": "*"}
    return tuple(token if len(token) == 1 and token != "*" else kinds[token[0]] for token in _TOKENS.findall(name))


@lru_cache(4096)
def _names_meet(first: Segments, second: Segments) -> bool:
    for one, other in ((first, second), (second, first)):
        if one and one[0] == "*":
            return _names_meet(one[1:], other) or (bool(other) and _names_meet(one, other[1:]))
    if not first or not second:
        return not first and not second
    same = "?" in {first[0], second[0]} or first[0] == second[0]
    return same and _names_meet(first[1:], second[1:])
