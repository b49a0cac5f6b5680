"""Vectors: embeddings that the caller's model has made, and which of them are near to one another.

They are stored with length 1, as 32-bit floats, so that the cosine of two is the sum of the products. Every vector that passes
the filters is looked at. That takes time in proportion to their number, so there is a limit to it, and who is over it is told
instead of being answered from a part.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Sequence
from heapq import nlargest
from operator import mul
from typing import Final

from mnemo_coord import errors
from mnemo_coord.memory.engine import Run
from mnemo_coord.memory.memory import COLUMNS, Memory, from_row
from mnemo_coord.memory.search import Filters, statements

__all__ = ["DIMENSION_LIMIT", "SCAN_LIMIT", "asks", "decoded", "encoded", "put"]

DIMENSION_LIMIT: Final = 4096
SCAN_LIMIT: Final = 20_000
"""Vectors that one search looks at; of 384 numbers each that takes one to two seconds."""
_BATCH: Final = 500


def encoded(embedding: Sequence[float]) -> bytes:
    """A vector as it is stored: of length 1, 32-bit floats, little-endian.

    Raises:
        errors.Config: it is empty, too long, zero, or not of finite numbers.
    """
    try:
        numbers = [float(number) for number in embedding]
    except (TypeError, ValueError, OverflowError):
        raise errors.Config("an embedding is a list of numbers", key="embedding") from None
    length = math.hypot(*numbers) if 0 < len(numbers) <= DIMENSION_LIMIT else 0.0
    if not math.isfinite(length) or length == 0.0:
        what = f"an embedding has 1 to {DIMENSION_LIMIT} finite numbers, and not only zeros"
        raise errors.Config(what, key="embedding")
    return _little(array("f", [number / length for number in numbers])).tobytes()


def decoded(data: bytes) -> array[float]:
    """The numbers of a stored vector."""
    numbers = array("f")
    numbers.frombytes(data)
    return _little(numbers)


def _little(numbers: array[float]) -> array[float]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def put(run: Run, memory_id: str, vector: bytes) -> None:
    """Writes the vector of a memory, in place of the one that was there."""
    run(
        "INSERT INTO vectors (memory, dimension, vector) SELECT seq, ?, ? FROM memories WHERE id = ?"
        " ON CONFLICT (memory) DO UPDATE SET dimension = excluded.dimension, vector = excluded.vector",
        (len(vector) // 4, vector, memory_id),
    )


def asks(vector: bytes, filters: Filters, limit: int) -> Callable[[Run], list[tuple[Memory, float]]]:
    """What finds the memories nearest to a vector, inside a transaction.

    Raises:
        errors.Config: a filter or the limit is not valid; when it runs, more than `SCAN_LIMIT` vectors pass the filters.
    """
    statements(None, filters, limit)
    where, values = filters.where()
    scope = f"FROM vectors JOIN memories ON memories.seq = vectors.memory WHERE dimension = ? AND {where}"
    given = [len(vector) // 4, *values]

    def look(run: Run) -> list[tuple[Memory, float]]:
        count = int(run(f"SELECT count(*) {scope}", given)[0][0])  # our own words
        if count > SCAN_LIMIT:
            what = f"{count:,} embeddings pass the filters, and {SCAN_LIMIT:,} are looked at"
            raise errors.Config(what, hint="search in one namespace, or with a tag", key="namespace")
        nearest = nlargest(limit, _scores(run, scope, given, decoded(vector)))
        return [(_memory(run, sequence), min(1.0, max(-1.0, score))) for score, sequence in nearest]

    return look


def _scores(run: Run, scope: str, given: list[object], wanted: array[float]) -> list[tuple[float, int]]:
    found: list[tuple[float, int]] = []
    last = 0
    while True:
        ask = f"SELECT memories.seq, vector {scope} AND memories.seq > ? ORDER BY memories.seq LIMIT {_BATCH}"
        batch = run(ask, [*given, last])
        if not batch:
            return found
        last = batch[-1][0]
        found += [(sum(map(mul, wanted, decoded(data))), sequence) for sequence, data in batch]


def _memory(run: Run, sequence: int) -> Memory:
    return from_row(run(f"SELECT {COLUMNS} FROM memories WHERE seq = ?", (sequence,))[0])  # noqa: S608
