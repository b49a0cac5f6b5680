"""Every error that this package raises on purpose: one tree, drawn once.

::

    CoordinationError            code                 exit
    ├── NotFound                 not-found            3    also LookupError
    │   └── UnknownAddress       unknown-address      3    no such instance, or it is dead
    ├── Conflict                 conflict             4    held by another
    │   ├── MailboxFull          mailbox-full         4    the receiver does not keep up
    │   └── LeaseLost            lease-lost           4    we held it, and no longer do
    ├── TimedOut                 timed-out            5    also TimeoutError
    ├── State                    state                6    the state directory cannot be used
    │   ├── Untrusted            untrusted            6    it could be used, but must not be
    │   ├── Damaged              damaged              6    a record does not parse or is too large
    │   └── Unknown              unknown              6    it may have happened: try again under the same id
    ├── Config                   config               2    also ValueError: bad input or settings
    │   ├── MessageTooLarge      message-too-large    2
    │   └── NotEncodable         not-encodable        2    a payload that JSON cannot carry faithfully
    └── Command                  command              7    a child command could not run or failed

``code`` is a stable slug and a heading of docs/reference/errors.md; ``hint`` says what to do about it. Data is carried as
attributes, and every error survives pickling (the shape is that of coverage.py's and httpx's error modules).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

__all__ = [
    "Command",
    "Config",
    "Conflict",
    "CoordinationError",
    "Damaged",
    "LeaseLost",
    "MailboxFull",
    "MessageTooLarge",
    "NotEncodable",
    "NotFound",
    "State",
    "TimedOut",
    "Unknown",
    "UnknownAddress",
    "Untrusted",
    "translated",
]


_P = ParamSpec("_P")
_T = TypeVar("_T")


class CoordinationError(Exception):
    """The root of the tree. ``str(error)`` is one line: the cause and, where there is one, the path."""

    code: ClassVar[str] = "error"
    """A stable slug for programs."""
    exit_code: ClassVar[int] = 1
    """What the command exits with when this error ends it."""
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.data = data

    def __getattr__(self, name: str) -> Any:
        # Only reached when ordinary lookup failed. `data` itself is missing while unpickling.
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.data))


def _rebuild(kind: type[CoordinationError], message: str, hint: str, data: dict[str, Any]) -> CoordinationError:
    return kind(message, hint=hint, **data)


class NotFound(CoordinationError, LookupError):
    """What was asked for does not exist."""

    code = "not-found"
    exit_code = 3


class UnknownAddress(NotFound):
    """No live instance has this id. ``address`` says which."""

    code = "unknown-address"
    default_hint = "`mnemosyne list` shows who is alive; a name or @role would wait for its next holder"


class Conflict(CoordinationError):
    """Somebody else holds it. ``holder`` describes them where that is known."""

    code = "conflict"
    exit_code = 4


class MailboxFull(Conflict):
    """The mailbox holds as many messages as it may. Nothing was written. ``address`` says whose."""

    code = "mailbox-full"
    default_hint = "wait until its receiver catches up, or look at it with `mnemosyne doctor`"


class LeaseLost(Conflict):
    """This process held it and no longer does; nothing more may be done in its name."""

    code = "lease-lost"


class TimedOut(CoordinationError, TimeoutError):
    """The time allowed passed first. ``timeout`` is that time in seconds."""

    code = "timed-out"
    exit_code = 5


class State(CoordinationError):
    """The state directory, or a file in it, cannot be used. ``path`` and ``reason`` say which and why."""

    code = "state"
    exit_code = 6

    @classmethod
    def at(cls, path: object, reason: str, *, hint: str | None = None) -> Self:
        """Builds the error for one path, with the path in the message."""
        return cls(f"{path}: {reason}", hint=hint, path=str(path), reason=reason)


class Untrusted(State):
    """It is not ours, or others may write it, or it is not the kind of file that it should be."""

    code = "untrusted"
    default_hint = "look at it by hand; `mnemosyne doctor` lists what else is wrong"


class Damaged(State):
    """A file of ours that does not parse, or is larger than it can be."""

    code = "damaged"
    default_hint = "`mnemosyne doctor --fix` sets it aside and rebuilds what can be rebuilt"


class Unknown(State):
    """It may have happened or not. ``id`` is that of the message: sent again under it, it is handed out once all the same."""

    code = "unknown"
    default_hint = "send it again with the same message id: it is handed out once all the same"


def translated(operation: Callable[_P, _T]) -> Callable[_P, _T]:
    """Makes a public operation raise errors of this tree only: what the system refuses becomes a `State`."""

    @wraps(operation)
    def wrapped(*args: _P.args, **options: _P.kwargs) -> _T:
        try:
            return operation(*args, **options)
        except CoordinationError:  # TimedOut is an OSError too
            raise
        except OSError as error:
            what = (error.strerror or str(error)).lower()
            named = f"{error.filename}: {what}" if error.filename else what
            hint = "check permissions, free space and limits of open files"
            raise State(named, hint=hint, path=str(error.filename or ""), reason=what) from error

    return wrapped


class Config(CoordinationError, ValueError):
    """A value given by the caller, a flag, a variable or a file is not acceptable."""

    code = "config"
    exit_code = 2


class MessageTooLarge(Config):
    """The message would be larger than a stored message may be. ``size`` and ``limit`` are in bytes."""

    code = "message-too-large"
    default_hint = "send a path or a key to the data instead of the data"


class NotEncodable(Config):
    """A payload that JSON cannot carry without changing it. ``key`` says where."""

    code = "not-encodable"
    default_hint = "use strings, finite numbers of at most 64 bits, true, false, null, lists and objects"


class Command(CoordinationError):
    """A child command could not be started or failed. ``argv`` and ``returncode`` say which and how."""

    code = "command"
    exit_code = 7
