"""Search: from free text to a question that FTS5 understands and that holds nothing but words.

Whatever is typed is cut into words, and each is quoted: ``OR``, ``NEAR(``, ``*``, ``col:`` and quotes have no meaning in it.
A word also finds longer words that begin with it. Scripts that write no spaces between words (Chinese, Japanese, Thai and
others) are indexed character by character, and a word in them is found anywhere. A text without letters and digits is looked
for as it stands.

What is found is put in order by BM25 (https://sqlite.org/fts5.html#the_bm25_function), times a weight from 0.6 to 1.5 for its
importance. Filters apply before the limit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from unicodedata import normalize

from mnemo_coord import errors
from mnemo_coord.memory.memory import COLUMNS, RESULTS_LIMIT, check_importance, check_tag, check_text
from mnemo_coord.memory.namespace import check_namespace

__all__ = ["Filters", "Question", "indexed", "question", "statements"]

_TEXT_LIMIT: Final = 4096
"""Bytes of what is searched for."""
_WORDS_LIMIT: Final = 64
_PREFIX_FROM: Final = 3
"""Characters that a word has at least to find longer ones; one or two would find nearly everything."""
_NO_SPACES: Final = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003134f"
)
_OF_NO_SPACES: Final = re.compile(f"([{_NO_SPACES}])")
_WORD: Final = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """Which memories come into question. What is None or empty does not matter."""

    namespace: str | None = None
    tags: tuple[str, ...] = ()
    """All of them."""
    min_importance: int = 1
    author: str | None = None
    """The id or the name of who wrote it."""

    def check(self) -> None:
        """Checks every one of them.

        Raises:
            errors.Config: one is not valid.
        """
        if self.namespace is not None:
            check_namespace(self.namespace)
        check_importance(self.min_importance)
        for tag in self.tags:
            check_tag(tag)
        if self.author is not None:
            check_text("author", self.author, 128)

    def where(self) -> tuple[str, list[Any]]:
        """The same as a condition of SQL, with its values."""
        clauses, values = ["memories.importance >= ?"], [self.min_importance]
        more: list[tuple[str, list[Any]]] = []
        if self.namespace is not None:
            more.append(("memories.namespace = ?", [self.namespace]))
        if self.author is not None:
            more.append(("(memories.author_id = ? OR memories.author_name = ?)", [self.author, self.author]))
        more += [("memories.seq IN (SELECT memory FROM tags WHERE tag = ?)", [tag]) for tag in dict.fromkeys(self.tags)]
        for clause, given in more:
            clauses.append(clause)
            values += given
        return " AND ".join(clauses), values


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is searched for."""

    words: tuple[str, ...]
    """Each a quoted phrase of FTS5."""
    text: str
    """As it stands, where there is no word in it."""

    @property
    def all_of(self) -> str:
        """The question for memories with all the words."""
        return " AND ".join(self.words)

    @property
    def any_of(self) -> str:
        """The question for memories with at least one of them."""
        return " OR ".join(self.words)


def question(text: str) -> Question:
    """What a free text asks for.

    Raises:
        errors.Config: it is empty or too long.
    """
    check_text("query", text, _TEXT_LIMIT)
    words = tuple(dict.fromkeys(_phrase(word) for word in _words(text)))
    if not words and not text.strip():
        raise errors.Config("there is nothing to search for", hint="give some words, or leave the query out", key="query")
    return Question(words=words[:_WORDS_LIMIT], text="" if words else text.strip())


def _phrase(word: str) -> str:
    spaced = " ".join(indexed(word).split())
    prefix = "*" if len(word) >= _PREFIX_FROM and spaced == word else ""
    return f'"{spaced}"{prefix}'


def _words(text: str) -> list[str]:
    """What counts as words here, and not in the tables of SQLite, which know an older Unicode; equal forms are one (NFKC)."""
    return _WORD.findall(normalize("NFKC", text))


def indexed(text: str) -> str:
    """A text as it is put into the index: its words, in which characters of scripts without spaces stand alone."""
    if text.isascii():
        return text.replace("\0", " ")  # SQLite finds the same words in it
    return _OF_NO_SPACES.sub(r" \1 ", " ".join(_words(text)))


def statements(asked: Question | None, filters: Filters, limit: int) -> list[tuple[str, list[Any]]]:
    """What to ask the database, one after the other until something is found.

    Raises:
        errors.Config: the limit is not one.
    """
    if type(limit) is not int or not 1 <= limit <= RESULTS_LIMIT:
        raise errors.Config(f"limit is a whole number from 1 to {RESULTS_LIMIT}, not {limit!r}", key="limit")
    filters.check()
    where, values = filters.where()
    if asked is None or not asked.words:
        condition, more = ("", []) if asked is None else (" AND instr(memories.content, ?)", [asked.text])
        newest = f"SELECT {COLUMNS} FROM memories WHERE {where}{condition} ORDER BY memories.seq DESC LIMIT ?"  # noqa: S608
        return [(newest, [*values, *more, limit])]
    # Only the best are looked up whole: a frequent word is in most of them.
    best = (
        "SELECT memories.seq AS seq, bm25(words) * (0.5 + memories.importance / 10.0) AS score"  # noqa: S608
        f" FROM words JOIN memories ON memories.seq = words.rowid WHERE words MATCH ? AND {where} ORDER BY 2, 1 DESC LIMIT ?"
    )
    ranked = f"SELECT {COLUMNS} FROM ({best}) AS best JOIN memories USING (seq) ORDER BY best.score, best.seq DESC"  # noqa: S608
    asks = [asked.all_of] if len(asked.words) == 1 else [asked.all_of, asked.any_of]
    return [(ranked, [ask, *values, limit]) for ask in asks]
