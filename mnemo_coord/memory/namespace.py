"""Namespaces: whose a memory is.

========================  ====================================
``global``                everybody's
``project:NAME``          of one project
``session:PROJECT:ID``    of one session of work on a project
========================  ====================================
"""

from __future__ import annotations

import re
from typing import Final

from mnemo_coord import errors

__all__ = ["GLOBAL", "check_namespace"]

GLOBAL: Final = "global"
_WORD: Final = r"[A-Za-z0-9_.-]{1,64}"
_NAMESPACE: Final = re.compile(rf"{GLOBAL}|project:{_WORD}|session:{_WORD}:{_WORD}", re.ASCII)


def check_namespace(text: str) -> str:
    """Returns the namespace if it is one.

    Raises:
        errors.Config: it is none of the three kinds.
    """
    if isinstance(text, str) and _NAMESPACE.fullmatch(text):
        return text
    hint = "global, project:NAME or session:PROJECT:ID, with names of letters, digits, `_`, `.` and `-`"
    raise errors.Config(f"{text!r} is not a namespace", hint=hint, key="namespace")
