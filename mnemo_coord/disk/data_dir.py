"""The data folder of this user: what belongs to no fleet and no project, such as slots, trust and the shared memories."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["data_dir"]


def data_dir(environ: Mapping[str, str] | None = None) -> Path:
    """``MNEMOSYNE_DATA_DIR``, else ``mnemosyne`` in ``XDG_DATA_HOME``, else ``~/.local/share/mnemosyne``. Touches nothing."""
    surroundings = os.environ if environ is None else environ
    named = surroundings.get("MNEMOSYNE_DATA_DIR")
    if named:
        return Path(os.path.expanduser(named)).absolute()
    return Path(os.path.expanduser(surroundings.get("XDG_DATA_HOME") or "~/.local/share")).absolute() / "mnemosyne"
