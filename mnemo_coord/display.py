"""What is shown: text from other programs that cannot move the cursor, change a terminal or forge a line; values as JSON.

Escaped are C0 and C1 controls, DEL, the line and paragraph separators, the marks that reorder text, those that cannot be seen,
and lone surrogates (CWE-117, CWE-150; "Trojan Source", CVE-2021-42574).
"""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from typing import Any, Final

__all__ = ["json_line", "printable"]

_UNFIT: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""One line of text with everything that is not plain to see escaped as ``\x1b`` or ``\u202e``."""
    return _UNFIT.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def json_line(value: Any) -> str:
    """One JSON document on one line, in ASCII: dataclasses become objects, tuples arrays."""
    return json.dumps(value, default=_plain, separators=(",", ":")).replace("\x7f", "\\u007f")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: getattr(value, name) for name in _members(type(value))}
    raise TypeError(f"{type(value).__name__} is not JSON")


@cache
def _members(kind: Any) -> list[str]:
    """Of a list of a thousand values, finding them out anew each time is a third of the work."""
    return [field.name for field in dataclasses.fields(kind)]
