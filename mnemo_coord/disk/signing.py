"""The fleet's key, and what is signed with it.

::

    secret      64 hex digits and a newline: 32 bytes from the system's generator, made once, never rewritten in place
    subkey      HKDF-SHA256(secret, salt "mnemosyne/v1", info = the purpose), 32 bytes          (RFC 5869)
    signature   HMAC-SHA256(subkey, purpose ":" key id ":" the exact bytes), as 64 hex digits   (RFC 2104)
    key id      the first 8 hex digits of SHA-256 of the 32 secret bytes

A key for each purpose keeps a heartbeat from being passed off as a message. With ``MNEMOSYNE_SHARED_SECRET`` set, its bytes
(16 at least) stand in place of the 32 and there is no file.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import files, locks
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.settings import SECRET_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnemo_coord.disk.state_dir import StateDir

__all__ = ["Purpose", "Signer", "check", "load", "refresh"]

SECRET: Final = "secret"
_LENGTH: Final = 32
_BLOCK: Final = 64
"""Bytes that SHA-256 takes at a time; HMAC pads its key to them."""
_LEAST: Final = 16
_PATIENCE: Final = 10.0
GRACE: Final = 30.0
"""Seconds, of several heartbeats: by then every live instance signs with the new key."""
_GONE: Final = (0, 0)
_SALT: Final = b"mnemosyne/v1"
_TEXT: Final = re.compile(rb"([0-9a-f]{64})\n?")


_Halves = tuple[Any, Any]


class Purpose(StrEnum):
    """What a signature is for. Part of the key and of what is signed."""

    RECORD = "record"
    HEARTBEAT = "heartbeat"
    MESSAGE = "message"
    CLAIM = "claim"
    HISTORY = "history"
    HEALTH = "health"
    REPORT = "report"
    TRAFFIC = "traffic"
    SESSION = "session"
    WORKTREE = "worktree"
    BRANCH = "branch"
    EDITS = "edits"


class Signer:
    """Signs and verifies with one secret."""

    def __init__(self, secret: bytes, version: tuple[int, int] | None = None) -> None:
        self.secret = b""
        self._before: tuple[Signer, float] | None = None
        self.adopt(secret, version)

    def adopt(self, secret: bytes, version: tuple[int, int] | None) -> None:
        """Signs with another secret from now on. ``version`` tells which file it came from; None: from no file.

        What was signed with the one before is still accepted for `GRACE` seconds: others have yet to notice the new one.
        """
        before = self._before
        if self.secret not in {b"", secret}:
            before = (Signer(self.secret), time.monotonic() + GRACE)
        self._before = before
        self.secret = secret
        self.version = version
        self.key_id = hashlib.sha256(secret).hexdigest()[:8]
        self._prepared: dict[Purpose, _Halves] = {}

    def __repr__(self) -> str:
        return f"<Signer {self.key_id}>"

    def _prepare(self, purpose: Purpose) -> _Halves:
        """The two hashes of an HMAC, fed with key and label: whoever signs goes on from a copy, at half the cost."""
        key = self._derive(purpose).ljust(_BLOCK, b"\0")
        inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in key)) for pad in (0x36, 0x5C))
        inner.update(f"{purpose}:{self.key_id}:".encode())
        self._prepared[purpose] = inner, outer
        return inner, outer

    def _derive(self, purpose: Purpose) -> bytes:
        # Imported here: nothing but this needs it, and it costs more than everything else that `send` loads.
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        return HKDF(algorithm=SHA256(), length=_LENGTH, salt=_SALT, info=purpose.encode()).derive(self.secret)

    def sign(self, purpose: Purpose, data: bytes) -> bytes:
        """The 32 bytes of the signature."""
        prepared = self._prepared.get(purpose) or self._prepare(purpose)
        inner, outer = prepared[0].copy(), prepared[1].copy()
        inner.update(data)
        outer.update(inner.digest())
        signature: bytes = outer.digest()
        return signature

    def verify(self, purpose: Purpose, data: bytes, signature: bytes) -> bool:
        """Whether the signature is ours, in constant time."""
        if hmac.compare_digest(self.sign(purpose, data), signature):
            return True
        if self._before is None or time.monotonic() > self._before[1]:
            return False
        return self._before[0].verify(purpose, data, signature)


def load(state: StateDir, environ: Mapping[str, str] | None = None) -> Signer:
    """The signer of the fleet; makes the key on first use.

    Raises:
        errors.Config: the variable is set and too short.
        errors.Untrusted: the file is not ours, or others could read it.
        errors.Damaged: it does not hold a key.
        errors.NotFound: there is none and the state directory is open for reading only.
    """
    from_environment = (os.environ if environ is None else environ).get(SECRET_VARIABLE)
    if from_environment:
        return Signer(_checked(os.fsencode(from_environment)))
    # RACE: the version is read before the key: a key that is replaced in between is adopted at the next refresh.
    version = _version(state)
    try:
        secret = _read(state)
    except FileNotFoundError:
        if not state.writable:
            raise errors.NotFound(f"{state.path / SECRET}: the fleet has no key yet", path=str(state.path / SECRET)) from None
        secret, version = _make(state), _version(state)
    return Signer(secret, version)


def refresh(signer: Signer, state: StateDir) -> bool:
    """Adopts the key in the file if it is another one than the signer's. Returns whether it did; cheap when not.

    A key that is gone (the state directory was removed under a live fleet) is put back: all its instances have the same.

    Raises:
        errors.State: the file is there and cannot be used, or cannot be made.
    """
    version = _version(state)
    if signer.version is None or signer.version == version:
        return False
    secret = _make(state, signer.secret)
    changed = secret != signer.secret
    signer.adopt(secret, _version(state) if version == _GONE else version)
    return changed


def _version(state: StateDir) -> tuple[int, int]:
    """Tells one key file from the next; zeros where there is none."""
    try:
        status = os.stat(SECRET, dir_fd=state.fd, follow_symlinks=False)
    except OSError:
        return _GONE
    return status.st_ino, status.st_mtime_ns


def _checked(secret: bytes) -> bytes:
    if len(secret) < _LEAST:
        raise errors.Config(f"{SECRET_VARIABLE} is shorter than {_LEAST} bytes", hint="openssl rand -hex 32 makes a good one")
    return secret


def _read(state: StateDir) -> bytes:
    try:
        fd = files.open_regular(SECRET, dir_fd=state.fd)
    except errors.Untrusted as error:
        raise errors.Untrusted.at(state.path / SECRET, error.reason) from None
    with files.opened(fd):
        problem = files.ownership_problem(os.fstat(fd))
        text = files.read_at_most(fd, 128)
    if problem:
        raise errors.Untrusted.at(state.path / SECRET, problem, hint="`mnemosyne doctor --fix` replaces it")
    match = _TEXT.fullmatch(text)
    if match is None:
        raise errors.Damaged.at(state.path / SECRET, "does not hold a key", hint="`mnemosyne doctor --fix` replaces it")
    return bytes.fromhex(match[1].decode())


def _make(state: StateDir, secret: bytes | None = None) -> bytes:
    """The key, made where there is none: the lock lets one process write it, the others then read it."""
    with locks.hold(state, SECRET, _PATIENCE):
        try:
            return _read(state)
        except FileNotFoundError:
            _remove_leftovers(state)  # whoever wrote them had this lock, and no longer has
            secret = secret or os.urandom(_LENGTH)
            files.replace(SECRET, secret.hex().encode() + b"\n", dir_fd=state.fd, writer=str(os.getpid()))
            return secret


def _leftovers(state: StateDir) -> list[str]:
    """Keys half written: they were never anybody's, and are nobody's to read."""
    return sorted(name for name in os.listdir(state.fd) if name.startswith(f"{SECRET}.") and name.endswith(".tmp"))


def _remove_leftovers(state: StateDir) -> None:
    for name in _leftovers(state):
        files.remove(name, dir_fd=state.fd)


def check(state: StateDir, *, stamp: int, fix: bool = False) -> list[Finding]:
    """Whether the key can be used. A key that others could read, or that is damaged, is replaced by a new one.

    Live instances notice the new key at their next heartbeat and sign with it from then on.
    """
    found = [_half_written(state, name, fix=fix) for name in _leftovers(state)]
    if os.environ.get(SECRET_VARIABLE):
        return found
    try:
        _read(state)
    except FileNotFoundError:
        return found
    except errors.State as error:
        finding = Finding(
            code=f"secret-{error.code}",
            severity=Severity.ERROR,
            subject=SECRET,
            message=error.reason,
            hint="`mnemosyne doctor --fix` sets it aside and makes a new one",
        )
        found.append(_replace(state, finding, stamp) if fix else finding)
    return found


def _half_written(state: StateDir, name: str, *, fix: bool) -> Finding:
    finding = Finding(
        code="leftover-secret",
        severity=Severity.WARNING,
        subject=name,
        message="a writer died while writing it",
        hint="`mnemosyne doctor --fix` removes it",
    )
    if fix:
        with locks.hold(state, SECRET, _PATIENCE):  # somebody alive may be writing it
            files.remove(name, dir_fd=state.fd)
    return finding.mended() if fix else finding


def _replace(state: StateDir, finding: Finding, stamp: int) -> Finding:
    state.set_aside(SECRET, dir_fd=state.fd, stamp=stamp)
    _make(state)
    return finding.mended()
