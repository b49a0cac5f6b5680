"""Text from other programs, made fit to be shown: nothing in it can move the cursor, change a terminal or forge a line.

Escaped are C0 and C1 controls, DEL, the line and paragraph separators, the marks that reorder text, those that cannot be seen,
and lone surrogates (CWE-117, CWE-150; "Trojan Source", CVE-2021-42574).
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["printable"]

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
