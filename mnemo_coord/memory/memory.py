"""A memory: one thing worth knowing later, with where it belongs, how much it matters, and who wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.display import printable
from mnemo_coord.memory.namespace import check_namespace

__all__ = [
    "COLUMNS",
    "CONTENT_LIMIT",
    "CONTEXT_LIMIT",
    "DEFAULT_IMPORTANCE",
    "RESULTS_LIMIT",
    "TAGS_LIMIT",
    "TAG_LIMIT",
    "Author",
    "Memory",
    "MemoryGlance",
    "check_id",
    "check_importance",
    "check_tag",
    "check_text",
    "checked",
    "from_row",
]

CONTENT_LIMIT: Final = 64 * 1024
CONTEXT_LIMIT: Final = 4 * 1024
"""Bytes in UTF-8."""
TAG_LIMIT: Final = 64
"""Characters."""
TAGS_LIMIT: Final = 32
DEFAULT_IMPORTANCE: Final = 5
RESULTS_LIMIT: Final = 1000
"""Memories that one recall returns at most."""
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_BETWEEN_TAGS: Final = "\x1f"
"""No tag holds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Author:
    """Who writes."""

    id: str | None = None
    """The id of an instance; None for a program that is none."""
    name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """One thing worth knowing later."""

    id: str
    """16 hex digits, unless it was given with another."""
    content: str
    namespace: str
    """``global``, ``project:NAME`` or ``session:PROJECT:ID``."""
    importance: int
    """From 1 to 10."""
    tags: tuple[str, ...]
    """In alphabetical order."""
    context: str
    """Where it comes from, or when it holds; may be empty."""
    author_id: str | None
    """The id of the instance that wrote it; None where it was no instance."""
    author_name: str | None
    created_at: str
    """RFC 3339, UTC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryGlance:
    """What is in the database, at one moment."""

    path: str
    memories: int
    links: int
    recent: tuple[Memory, ...]
    """The newest, newest first; of a long content only the beginning, with "…" behind it."""


COLUMNS: Final = (
    "memories.id, memories.content, memories.namespace, memories.importance,"
    " (SELECT group_concat(tag, char(31)) FROM (SELECT tag FROM tags WHERE memory = memories.seq ORDER BY tag)),"
    " memories.context, memories.author_id, memories.author_name, memories.created_at"
)
"""What `from_row` reads."""


def from_row(row: tuple[Any, ...]) -> Memory:
    """The memory of one row of `COLUMNS`."""
    key, content, namespace, importance, tags, context, author_id, author_name, created_at = row[:9]
    return Memory(
        id=key,
        content=content,
        namespace=namespace,
        importance=importance,
        tags=tuple(tags.split(_BETWEEN_TAGS)) if tags else (),
        context=context,
        author_id=author_id,
        author_name=author_name,
        created_at=created_at,
    )


def checked(memory: Memory) -> Memory:
    """The memory, with its tags in order and without doubles, if all of it is valid.

    Raises:
        errors.Config: naming what is not; `errors.NotEncodable` for text that is no Unicode.
    """
    check_id(memory.id)
    check_namespace(memory.namespace)
    check_importance(memory.importance)
    if not check_text("content", memory.content, CONTENT_LIMIT).strip():
        raise errors.Config("there is nothing to remember", hint="content is some text", key="content")
    check_text("context", memory.context, CONTEXT_LIMIT)
    for name in ("author_id", "author_name", "created_at"):
        text = getattr(memory, name)
        if text is not None or name == "created_at":
            check_text(name, text, 128)
    tags = _check_tags(memory.tags)
    return memory if tags == memory.tags else _with_tags(memory, tags)


def _with_tags(memory: Memory, tags: tuple[str, ...]) -> Memory:
    from dataclasses import replace

    return replace(memory, tags=tags)


def check_text(name: str, text: str, limit: int) -> str:
    """Returns a text of at most ``limit`` bytes in UTF-8.

    Raises:
        errors.Config: it is longer, or no text; ``size`` and ``limit`` are in bytes.
        errors.NotEncodable: it holds half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise errors.Config(f"{name} is no text", key=name)
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise errors.NotEncodable(f"{name} holds half of a surrogate pair", key=name) from None
    if size > limit:
        what = f"{name} has {size} bytes, and may have {limit}"
        raise errors.Config(what, hint="keep it short: a path or a summary", key=name, size=size, limit=limit)
    return text


def check_id(text: str) -> str:
    """Returns the id of a memory.

    Raises:
        errors.Config: it is none.
    """
    if isinstance(text, str) and _ID.fullmatch(text):
        return text
    raise errors.Config(f"{text!r} is not the id of a memory", hint="1 to 64 letters, digits, `_` and `-`", key="id")


def check_importance(number: int) -> int:
    """Returns a number from 1 to 10.

    Raises:
        errors.Config: it is none.
    """
    if type(number) is int and 1 <= number <= 10:
        return number
    raise errors.Config(f"importance is a whole number from 1 to 10, not {number!r}", key="importance")


def check_tag(tag: str) -> str:
    """Returns a tag.

    Raises:
        errors.Config: it is empty, too long, or has spaces around it or characters that cannot be seen.
    """
    if isinstance(tag, str) and 0 < len(tag) <= TAG_LIMIT and tag == tag.strip() and printable(tag) == tag:
        return tag
    what = f"{tag!r} is not a tag: 1 to {TAG_LIMIT} characters that can be seen, without spaces around them"
    raise errors.Config(what, key="tags")


def _check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise errors.Config("tags are a list of texts, not one text", key="tags")
    found = tuple(sorted({check_tag(tag) for tag in tags}))
    if len(found) > TAGS_LIMIT:
        raise errors.Config(f"{len(found)} tags are more than {TAGS_LIMIT}", key="tags")
    return found
