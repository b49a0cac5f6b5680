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

__all__ = ["Stored", "around", "has", "join", "split"]

VERSION: Final = 1
_HEAD: Final = b'{"version":%d,"instances":{\n' % VERSION
_TAIL: Final = b"\n}}\n"

Stored = dict[str, bytes]
"""The members as they lie there, none of them verified: a change has to carry them along, not to believe them."""


def join(stored: Mapping[str, bytes]) -> bytes:
    """The whole file."""
    lines = (b"%b:%b" % (records.encode_text(key).encode(), stored[key]) for key in sorted(stored))
    return _HEAD + b",\n".join(lines) + _TAIL


def split(data: bytes) -> Stored | None:
    """The members by their keys; None where the file has another form: somebody has reformatted or damaged it."""
    if not _is_ours(data):
        return None
    found = {}
    for line in data[len(_HEAD) : -len(_TAIL)].split(b",\n"):
        if line[:1] != b'"' or line[9:11] != b'":':
            return None
        found[line[1:9].decode(errors="replace")] = line[11:]
    return found


def has(data: bytes, instance_id: str) -> bool | None:
    """Whether an id has a line; None where the file has another form."""
    return b'\n"%b":' % instance_id.encode() in data if _is_ours(data) else None


def around(data: bytes, instance_id: str, count: int) -> tuple[int, Stored] | None:
    """How many ids are below this one, and the ``count`` members that follow it on the ring of all ids.

    None where the file has another form, or the id is not in it.
    """
    own = data.find(b'\n"%b":' % instance_id.encode())
    if own < 0 or not _is_ours(data):
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


def _is_ours(data: bytes) -> bool:
    return data.startswith(_HEAD) and data.endswith(_TAIL)
