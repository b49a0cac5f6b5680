"""File systems on which a lock proves nothing."""

from __future__ import annotations

import os
import re
from typing import Final

__all__ = ["unreliable_file_system"]

_UNRELIABLE: Final = re.compile(r"nfs\d?|cifs|smb\d?|smbfs|9p|fuse(\..+)?|virtiofs|afs|ceph|glusterfs|lustre")
"""File systems on which a lock that looks free may be held by somebody whom this kernel does not see."""


def unreliable_file_system(dir_fd: int) -> str:
    """The type of the file system of an open folder if locks on it prove nothing, such as ``nfs4``; else an empty string."""
    device = os.fstat(dir_fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            fields = (line.split(" - ", 1) for line in mounts)
            kinds = [after.split()[0] for before, after in fields if before.split()[2] == wanted]
    except (OSError, ValueError, IndexError):
        return ""
    return next((kind for kind in kinds if _UNRELIABLE.fullmatch(kind)), "")
