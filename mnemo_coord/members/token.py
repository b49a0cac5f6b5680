"""The token of an instance's API: who can read it may use the API.

::

    instances/<id>.token    64 hex digits and a newline: 32 bytes from the system's generator, new at each start

It is made with the registration of an instance that has an API, put back at a heartbeat where it is gone, and ends with the
instance. Only its own user can read it. By hand it may be deleted: it comes back.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.disk.state_dir import INSTANCES

if TYPE_CHECKING:
    from mnemo_coord.disk.state_dir import StateDir

__all__ = ["draw", "ensure", "read", "remove", "token_name"]

_TOKEN: Final = re.compile(rb"[0-9a-f]{64}\n", re.ASCII)


def token_name(instance_id: str) -> str:
    """The token file of an instance, inside ``instances/``."""
    return f"{instance_id}.token"


def draw() -> str:
    """A new token."""
    return os.urandom(32).hex()


def ensure(state: StateDir, instance_id: str, token: str) -> None:
    """Makes the file hold this token; cheap when it does.

    Raises:
        OSError: it cannot be written.
    """
    if read(state, instance_id) == token:
        return
    folder, name = state.folder(INSTANCES), token_name(instance_id)
    files.remove(name, dir_fd=folder)  # only ever ours: the id is
    with files.opened(files.create(name, dir_fd=folder)) as fd:
        files.write_all(fd, token.encode() + b"\n")


def read(state: StateDir, instance_id: str) -> str | None:
    """The token of an instance; None where it has none."""
    with suppress(OSError, errors.State):
        data = files.read_bounded(token_name(instance_id), 128, dir_fd=state.folder(INSTANCES))
        return data.decode().strip() if _TOKEN.fullmatch(data) else None
    return None


def remove(state: StateDir, instance_id: str) -> None:
    """Ends it."""
    with suppress(OSError):
        files.remove(token_name(instance_id), dir_fd=state.folder(INSTANCES))
