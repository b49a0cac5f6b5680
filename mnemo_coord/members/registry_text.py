"""The registry as text: a line for each record, in the order of the ids.

::

    {"version":1,"instances":{
    "a1b2c3d4":<sealed record>,
    "e5f6a7b8":<sealed record>
    }}

People read this file, and diff it, and so do we: what is looked for is found in the bytes, and what has not changed is known
by them. These functions do not look whether a member is JSON, let alone ours. In JSON they find what a parser does, because no
text in it holds a line break.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mnemo_coord.disk import records

__all__ = ["NEAR", "Stored", "around", "following", "has", "is_ours", "join", "line_of", "near", "split"]

VERSION: Final = 1
_HEAD: Final = b'{"version":%d,"instances":{\n' % VERSION
_TAIL: Final = b"\n}}\n"

NEAR: Final = 32 * 1024
"""Bytes on either side of the place where a line is expected. Ids are drawn by chance, so of a thousand lines nearly all lie
within fifty others of theirs; what does not is looked for in the whole file."""

Stored = dict[str, bytes]
"""The members as they lie there, none of them verified: a change has to carry them along, not to believe them."""


def join(stored: Mapping[str, bytes]) -> bytes:
    """The whole file."""
    lines = (b"%b:%b" % (records.encode_text(key).encode(), stored[key]) for key in sorted(stored))
    return _HEAD + b",\n".join(lines) + _TAIL


def split(data: bytes) -> Stored | None:
    """The members by their keys; None where the file has another form: somebody has reformatted or damaged it."""
    if not is_ours(data):
        return None
    found = {}
    for line in data[len(_HEAD) : -len(_TAIL)].split(b",\n"):
        if line[:1] != b'"' or line[9:11] != b'":':
            return None
        found[line[1:9].decode(errors="replace")] = line[11:]
    return found


def has(data: bytes, instance_id: str) -> bool | None:
    """Whether an id has a line; None where the file has another form."""
    return line_of(instance_id) in data if is_ours(data) else None


def line_of(instance_id: str) -> bytes:
    """What the line of an id begins with, and nothing else holds."""
    return b'\n"%b":' % instance_id.encode()


def around(data: bytes, instance_id: str, count: int) -> tuple[int, Stored] | None:
    """How many ids are below this one, and the ``count`` members that follow it on the ring of all ids.

    None where the file has another form, or the id is not in it.
    """
    own = data.find(line_of(instance_id))
    if own < 0 or not is_ours(data):
        return None
    first, last = len(_HEAD) - 1, len(data) - len(_TAIL)
    found: Stored = {}
    at = own
    for _ in range(count):
        at = data.find(b"\n", at + 1)
        at = first if at >= last else at
        if at == own:
            break
        line = data[at + 1 : data.find(b"\n", at + 1)].removesuffix(b",")
        found[line[1:9].decode(errors="replace")] = line[11:]
    return data.count(b"\n", first, own), found


def near(instance_id: str, size: int) -> int:
    """Where the part of a file of ``size`` bytes begins, two times `NEAR` long, in which the line of an id is expected."""
    return max(0, size * int(instance_id, 16) // 2**32 - NEAR)


def following(part: bytes, instance_id: str, count: int) -> tuple[int, Stored] | None:
    """As `around`, from a part out of the middle: how many ids *at least* are below. None where the part does not suffice."""
    own = part.find(line_of(instance_id))
    lines = part[own + 1 :].split(b",\n", count + 1)
    if own < 0 or len(lines) < count + 2:
        return None
    return part.count(b"\n", 0, own), {line[1:9].decode(errors="replace"): line[11:] for line in lines[1 : count + 1]}


def is_ours(data: bytes) -> bool:
    """Whether a file, given whole or by its two ends, has this form."""
    return data.startswith(_HEAD) and data.endswith(_TAIL)
