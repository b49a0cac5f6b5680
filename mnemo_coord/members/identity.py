"""Who an instance is: its id, its name and roles, and the process behind it.

An id is 8 hex digits, drawn at random at each start. It is drawn *exclusively*: whoever creates ``instances/<id>.lock`` has
it, and the file stays until the instance has left or was reaped, so no two instances ever share one. A name is chosen and
says whose place an instance takes; a role is what it can do. Both have one grammar, and a name is never shaped like an id.
"""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.disk.clock import Clock, namespace
from mnemo_coord.disk.locks import LifeLock

if TYPE_CHECKING:
    from mnemo_coord.disk.state_dir import StateDir

__all__ = ["ProcessIdentity", "check_name", "check_role", "draw", "is_id", "lock_name"]

_ID: Final = re.compile(r"[0-9a-f]{8}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
RESERVED: Final = frozenset({"default", "config", "tmp", "all", "mnemosyne"})
_DRAWS: Final = 64


def is_id(text: str) -> bool:
    """Whether a text has the shape of an instance id."""
    return _ID.fullmatch(text) is not None


def check_name(name: str, what: str = "name") -> str:
    """Returns ``name`` if it is a valid one.

    Raises:
        errors.Config: saying which rule it breaks.
    """
    broken = _broken_rule(name)
    if broken:
        raise errors.Config(f"{what} {name!r} {broken}", hint="1 to 64 ASCII letters, digits, _ or -", key=what)
    return name


def _broken_rule(name: str) -> str:
    if not isinstance(name, str) or not name:
        return "is empty" if name == "" else "is not text"
    if len(name) > 64:
        return f"has {len(name)} characters, 64 are allowed"
    if _NAME.fullmatch(name) is None:
        return "has a character other than ASCII letters, digits, _ and -"
    if name.lower() in RESERVED:
        return "is reserved"
    if is_id(name):
        return "looks like an instance id"
    return ""


def check_role(role: str) -> str:
    """Returns a role, without the ``@`` it is addressed by, if it is valid."""
    return check_name(role.removeprefix("@"), "role")


def lock_name(instance_id: str) -> str:
    """The lock file of an instance, inside ``instances/``."""
    return f"{instance_id}.lock"


def draw(state: StateDir) -> tuple[str, LifeLock]:
    """Draws a new id and takes its lock.

    Raises:
        errors.State: no lock file can be made.
    """
    from mnemo_coord.disk.state_dir import INSTANCES

    for _ in range(_DRAWS):
        instance_id = os.urandom(4).hex()
        try:
            lock = LifeLock.create(lock_name(instance_id), dir_fd=state.folder(INSTANCES))
        except OSError as error:
            raise errors.State.at(state.path / INSTANCES, (error.strerror or str(error)).lower()) from None
        if lock is not None:
            return instance_id, lock
    raise errors.State.at(state.path / INSTANCES, f"{_DRAWS} drawn ids were all taken")


class ProcessIdentity(NamedTuple):
    """Which process this is, well enough to tell it from another that later has the same number."""

    pid: int
    start_time: int
    """Clock ticks after boot at which it started (proc(5), field 22); 0 where unknown."""
    pidfd_inode: int
    """Inode of its pidfd, unique while the machine runs (Linux 6.9 and later); 0 where pidfds have none of their own."""
    pid_namespace: int
    time_namespace: int
    boot_id: str
    machine: str
    uid: int

    @classmethod
    def own(cls, clock: Clock) -> ProcessIdentity:
        """The identity of this process."""
        pid = os.getpid()
        return cls(
            pid=pid,
            start_time=start_time_and_state(pid)[0],
            pidfd_inode=_own_pidfd_inode(),
            pid_namespace=namespace("pid"),
            time_namespace=namespace("time"),
            boot_id=clock.boot_id,
            machine=machine(),
            uid=os.geteuid(),
        )

    def to_body(self) -> dict[str, Any]:
        """As members of a record."""
        return self._asdict()


@cache
def machine() -> str:
    """Names this machine: machine-id(5), else the host name."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            with open(path, encoding="ascii") as stream:
                text = stream.read(64).strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text:
            return text
    return os.uname().nodename


def start_time_and_state(pid: int) -> tuple[int, str]:
    """Start time in ticks and state letter of a process from proc(5); (0, "") where they cannot be read."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        with files.opened(fd):
            # The command name is in parentheses and may hold spaces and parentheses itself: count from the last one.
            rest = os.read(fd, 4096).rpartition(b")")[2].split(None, 20)
        return int(rest[19]), rest[0].decode()
    except (OSError, IndexError, ValueError):
        return _start_time_elsewhere(pid)


def _start_time_elsewhere(pid: int) -> tuple[int, str]:
    if os.path.exists("/proc/self/stat"):
        return 0, ""
    import psutil

    try:
        process = psutil.Process(pid)
        return int(process.create_time() * 100), "T" if process.status() == psutil.STATUS_STOPPED else "S"
    except psutil.Error:
        return 0, ""


def _own_pidfd_inode() -> int:
    """Before Linux 6.9 all pidfds share the one anonymous inode, which an eventfd has too: then there is nothing to record."""
    try:
        mine, anonymous = os.pidfd_open(os.getpid()), os.eventfd(0)
    except (OSError, AttributeError):
        return 0
    try:
        inode = os.fstat(mine).st_ino
        return 0 if inode == os.fstat(anonymous).st_ino else inode
    finally:
        os.close(mine)
        os.close(anonymous)
