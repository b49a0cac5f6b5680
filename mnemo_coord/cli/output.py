"""What is printed: data on stdout, talk on stderr, nothing from data that could steer a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from mnemo_coord.display import json_line, printable

__all__ = ["complain", "configure_logging", "document", "line", "table", "talk"]


def document(value: Any) -> None:
    """Prints one JSON document and hands it on at once."""
    sys.stdout.write(json_line(value) + "\n")
    sys.stdout.flush()


def line(text: str) -> None:
    """Prints one line of data."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def talk(text: str) -> None:
    """Says something to the person, beside the data."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


_RULE: Final = 80
"""Characters, unless a row is longer."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, rule: bool = False) -> None:
    """Prints aligned columns; the last one is not padded, and ends where a terminal does. A rule is a line below the header."""
    cells = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    ends = _terminal_width() if sys.stdout.isatty() else None
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    if rule:
        texts.insert(1, "-" * max(_RULE, *map(len, texts)))
    cut = texts if ends is None else [text if len(text) <= ends else f"{text[: ends - 1]}…" for text in texts]
    sys.stdout.write("".join(f"{text}\n" for text in map(printable, cut)))
    sys.stdout.flush()


def _terminal_width() -> int:
    import shutil  # which loads every kind of compression

    return shutil.get_terminal_size().columns


def complain(code: str, message: str, hint: str, exit_code: int, *, as_json: bool, **more: Any) -> int:
    """Says what went wrong: one line, or the one JSON document. Returns the exit code."""
    if as_json:
        document({**more, "error": {"code": code, "message": message, "hint": hint}})
    else:
        talk(f"mnemosyne: {message}" + (f" ({hint})" if hint else ""))
    return exit_code


class _LineFormatter(logging.Formatter):
    """``2026-11-05T04:54:00Z INFO …``: one record, one line, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        level = "WARN" if record.levelno == logging.WARNING else record.levelname
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        return f"{at} {level} {printable(text)}"


def configure_logging(level: int = logging.INFO) -> None:
    """Sends the log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LineFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mnemo_coord").setLevel(level)
