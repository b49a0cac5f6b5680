"""Claims: what one instance of the fleet holds, and the kernel frees at its death.

::

    claims/<kind>-<hex>.lock    permanent; locked while the claim is held; its *length* is the epoch
    claims/<kind>-<hex>.json    sealed: who holds it, at which epoch, since when; gone when it is free

``<hex>`` is the name of the claim in UTF-8, in hex, so no name of a person's choice is ever a path. The lock decides; the
record only tells others. The epoch rises by one at each taking, strictly, and never goes back: it is raised by lengthening
the lock file by one byte (a hole: it takes no space), which the file system does whole or not at all. Whoever writes
somewhere in the name of a claim passes the epoch along, and a store that remembers the highest one refuses the late
writes of a former holder (the fencing token of Kleppmann, "How to do distributed locking").
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, probes, records
from mnemo_coord.disk.clock import Clock, rfc3339
from mnemo_coord.disk.files import CrashPoint
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import CLAIMS, StateDir
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.holdings import fence

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Claim", "ClaimKind", "Claims", "Holder", "check"]

_NAME_LIMIT: Final = 100
_RECORD_LIMIT: Final = 1024


class ClaimKind(StrEnum):
    """What is claimed."""

    SINGLETON = "singleton"
    """What a program names itself, with ``me.claim(…)``."""
    NAME = "name"
    """The name of an instance: one at a time has it."""
    LEADER = "leader"
    """What instances stand for, with ``me.lead(…)`` (holdings.election)."""
    BRANCH = "branch"
    """A branch, for the moment in which an assignment of it is given: this counts its epochs (holdings.branches)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds a claim."""

    claim: str
    instance_id: str
    pid: int
    epoch: int
    since: str

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> Self:
        """Reads a record back.

        Raises:
            ValueError: it is not one.
        """
        if not all(type(body.get(name)) is str for name in ("claim", "instance_id", "since")):
            raise ValueError("not a claim")
        if not all(type(body.get(name)) is int for name in ("pid", "epoch")):
            raise ValueError("not a claim")
        return cls(**{name: body[name] for name in cls.__slots__})


class Claims:
    """The claims of one fleet."""

    def __init__(self, state: StateDir, signer: Signer, clock: Clock) -> None:
        self.state = state
        self.signer = signer
        self._clock = clock

    def take(self, kind: ClaimKind, name: str, instance_id: str, *, timeout: float = 0.0) -> Claim:
        """Takes a claim, waiting up to ``timeout`` seconds for its holder.

        Raises:
            errors.Conflict: somebody else holds it; ``holder`` says who.
            errors.Config: the name is empty, too long or not text.
        """
        stem = _stem(kind, name)
        folder = self.state.folder(CLAIMS)
        descriptor = locks.Descriptor(locks.open_lock_file(f"{stem}.lock", folder))
        try:
            if not locks.take_descriptor(descriptor.fd, timeout):
                raise self._conflict(stem, name, descriptor.fd)
            if not os.fstat(descriptor.fd).st_nlink:  # removed by hand while we waited: what we locked guards no name
                raise errors.LeaseLost(f"the lock file of {name!r} was removed while it was waited for", hint="try again")
            files.crash_point(CrashPoint.CLAIM_LOCKED)
            # A lock file that was removed under its holder starts again at nothing; the holder's record still knows.
            recorded = self._holder(stem)
            epoch = _raise_epoch(descriptor.fd, recorded.epoch if recorded else 0)
            claim = Claim(self, stem, name, descriptor, epoch)
            files.crash_point(CrashPoint.CLAIM_EPOCH_RAISED)
            self._record(claim, instance_id)
        except BaseException:
            descriptor.close()
            raise
        return claim

    def _record(self, claim: Claim, instance_id: str) -> None:
        now = rfc3339(self._clock.wall_ns())
        holder = Holder(claim=claim.name, instance_id=instance_id, pid=os.getpid(), epoch=claim.epoch, since=now)
        sealed = records.seal(asdict(holder), self.signer, Purpose.CLAIM)
        files.replace(f"{claim.stem}.json", sealed, dir_fd=self.state.folder(CLAIMS), writer=instance_id)
        files.crash_point(CrashPoint.CLAIM_RECORDED)

    def _conflict(self, stem: str, name: str, fd: int) -> errors.Conflict:
        holder = self._holder(stem)
        pid = holder.pid if holder else locks.holder_pid(fd)
        who = f"instance {holder.instance_id}" if holder else "another process"
        return errors.Conflict(
            f"{name!r} is held by {who}" + (f" (process {pid})" if pid else ""),
            hint="it is freed when that process ends or releases it",
            holder=holder.instance_id if holder else None,
            pid=pid,
        )

    def _holder(self, stem: str) -> Holder | None:
        try:
            sealed = files.read_bounded(f"{stem}.json", _RECORD_LIMIT, dir_fd=self.state.folder(CLAIMS))
            return Holder.from_body(records.unseal(sealed, self.signer, Purpose.CLAIM, stem))
        except (OSError, errors.State, ValueError):
            return None

    def held(self) -> list[tuple[ClaimKind, Holder]]:
        """Every claim that is held now, by the kernel's word."""
        found = ((stem, self._holder(stem)) for stem in self.stems())
        return [(ClaimKind(stem.partition("-")[0]), holder) for stem, holder in found if holder and self._is_locked(stem)]

    def stems(self) -> list[str]:
        """Every claim with a record."""
        names = (name.removesuffix(".json") for name in self.state.listing(CLAIMS) if name.endswith(".json"))
        return [name for name in names if name.partition("-")[0] in set(ClaimKind)]

    def leftovers(self) -> list[str]:
        """Records half written: only whoever has the lock of the claim writes one."""
        names = (name for name in self.state.listing(CLAIMS) if name.endswith(".tmp"))
        return [name for name in names if self.is_stale(name.partition(".json.")[0])]

    def _is_locked(self, stem: str) -> bool:
        return probes.probe(f"{stem}.lock", dir_fd=self.state.folder(CLAIMS)).state is probes.LockState.HELD

    def holder(self, kind: ClaimKind, name: str) -> Holder | None:
        """Who holds a claim now; None when nobody does."""
        stem = _stem(kind, name)
        return self._holder(stem) if self._is_locked(stem) else None

    def epoch(self, kind: ClaimKind, name: str) -> int:
        """The epoch of the last taking; 0 when it was never taken."""
        try:
            status = os.stat(f"{_stem(kind, name)}.lock", dir_fd=self.state.folder(CLAIMS), follow_symlinks=False)
        except FileNotFoundError:
            return 0
        return status.st_size

    def release_of(self, instance_id: str) -> None:
        """Removes the records of a dead instance; the kernel has freed the locks already."""
        for stem in self.stems():
            holder = self._holder(stem)
            if holder is not None and holder.instance_id == instance_id:
                self.clear(stem)

    def clear(self, stem: str) -> bool:
        """Removes a record whose lock is free."""
        folder = self.state.folder(CLAIMS)
        if probes.probe(f"{stem}.lock", dir_fd=folder).state is probes.LockState.MISSING:
            return files.remove(f"{stem}.json", dir_fd=folder)
        fd = probes.share(f"{stem}.lock", dir_fd=folder)
        if fd is None:
            return False
        with files.opened(fd):
            return files.remove(f"{stem}.json", dir_fd=folder)

    def is_stale(self, stem: str) -> bool:
        """Whether there is a record although nobody holds the lock."""
        seen = probes.probe(f"{stem}.lock", dir_fd=self.state.folder(CLAIMS))
        return seen.state in {probes.LockState.FREE, probes.LockState.MISSING}


class Claim:
    """A claim that is held. Release it, leave its ``with`` block, or end: the kernel frees it."""

    def __init__(self, claims: Claims, stem: str, name: str, descriptor: locks.Descriptor, epoch: int) -> None:
        self._claims = claims
        self.stem = stem
        self.kind = ClaimKind(stem.partition("-")[0])
        self.name = name
        self.epoch = epoch
        """Rises at each taking; a store that remembers the highest refuses a former holder."""
        self._descriptor = descriptor

    @property
    def active(self) -> bool:
        """Whether it has not been released here."""
        return self._descriptor.fd >= 0

    def check(self) -> None:
        """Makes sure, before something that cannot be undone, that it is still held.

        Raises:
            errors.LeaseLost: it is not.
        """
        if not self.is_held():
            raise errors.LeaseLost(f"{self.name!r} is no longer held at epoch {self.epoch}")

    def is_held(self) -> bool:
        """Whether this very file is still at its path, locked, and at our epoch."""
        folder = self._claims.state.folder(CLAIMS)
        try:
            mine = os.fstat(self._descriptor.fd)
            at_path = os.stat(f"{self.stem}.lock", dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        same = (mine.st_dev, mine.st_ino, self.epoch) == (at_path.st_dev, at_path.st_ino, at_path.st_size)
        return same and probes.probe(f"{self.stem}.lock", dir_fd=folder).state is probes.LockState.HELD

    def write(self, path: str | os.PathLike[str], data: bytes) -> None:
        """Replaces a file in the name of this claim, whole and durably; a former holder is refused (see `fence`).

        Raises:
            errors.LeaseLost: it is no longer held, or a later holder has written the file already.
            errors.State: it cannot be written.
        """
        self.check()
        fence.write(path, data, self.epoch)

    def yield_if_lost(self) -> bool:
        """Lets go of it if it is no longer ours, so that nothing more is done in its name. Returns whether it did."""
        if not self.active or self.is_held():
            return False
        self._descriptor.close()
        return True

    def release(self) -> None:
        """Gives it up. Idempotent."""
        if not self.active:
            return
        with suppress(OSError):
            if self.is_held():
                files.remove(f"{self.stem}.json", dir_fd=self._claims.state.folder(CLAIMS))
        self._descriptor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def _stem(kind: ClaimKind, name: str) -> str:
    if not isinstance(name, str) or not name or len(name.encode(errors="replace")) > _NAME_LIMIT:
        raise errors.Config(f"a claim's name has 1 to {_NAME_LIMIT} bytes of text, not {name!r}", key="name")
    try:
        return f"{kind}-{name.encode().hex()}"
    except UnicodeEncodeError:
        raise errors.Config(f"a claim's name is text, not {name!r}", key="name") from None


def _raise_epoch(fd: int, recorded: int) -> int:
    epoch = max(os.fstat(fd).st_size, recorded) + 1
    os.ftruncate(fd, epoch)
    os.fsync(fd)
    return epoch


def check(claims: Claims, *, fix: bool = False) -> list[Finding]:
    """Records of claims that nobody holds."""
    found = []
    for stem in claims.stems():
        if claims.is_stale(stem):
            finding = Finding(
                code="claim-stale",
                severity=Severity.WARNING,
                subject=f"{CLAIMS}/{stem}.json",
                message="says that the claim is held, and nobody holds it",
                hint="`mnemosyne doctor --fix` removes the record; the claim itself is free already",
            )
            found.append(finding.mended_by(partial(claims.clear, stem)) if fix else finding)
    return found + [_leftover(claims, name, fix=fix) for name in claims.leftovers()]


def _leftover(claims: Claims, name: str, *, fix: bool) -> Finding:
    finding = Finding(
        code="leftover-claim",
        severity=Severity.WARNING,
        subject=f"{CLAIMS}/{name}",
        message="its holder died while writing it",
        hint="`mnemosyne doctor --fix` removes it",
    )
    return finding.mended_by(lambda: files.remove(name, dir_fd=claims.state.folder(CLAIMS))) if fix else finding
