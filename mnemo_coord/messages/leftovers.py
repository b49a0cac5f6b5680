"""What the queue holds that nobody will come for, found and mended: the mailboxes' part of the doctor's work."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from mnemo_coord.disk import files, locks
from mnemo_coord.disk.state_dir import INSTANCES, QUEUE, StateDir
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.members.identity import is_id, lock_name
from mnemo_coord.messages.mailbox import DEAD, REFUSED, TMP, Mailbox, boxes

if TYPE_CHECKING:
    from mnemo_coord.messages.queue import Queue

__all__ = ["check"]


def check(queue: Queue, state: StateDir, lives: Callable[[str], bool], *, fix: bool = False) -> list[Finding]:
    """Mailboxes and claimed messages of instances that are gone, leftovers of senders, and what was set aside."""
    try:
        addresses = list(boxes(state.folder(QUEUE)))
    except FileNotFoundError:
        return []
    gone = {address.text for address in addresses if address.is_id and not lives(address.text)}
    for address in addresses:
        with suppress(FileNotFoundError):
            claimers = {claimer for claimer, _ in Mailbox.open(address, state.folder(QUEUE)).claims()}
            gone |= {claimer for claimer in claimers if not lives(claimer)}
    found = [_abandoned(queue, instance_id, fix=fix) for instance_id in sorted(gone)]
    found += [_half_sent(state, name, fix=fix) for name in state.listing(f"{QUEUE}/{TMP}") if _is_leftover(name, state, lives)]
    return found + [_set_aside(state, where) for where in (REFUSED, DEAD) if state.listing(f"{QUEUE}/{where}")]


def _abandoned(queue: Queue, instance_id: str, *, fix: bool) -> Finding:
    finding = Finding(
        code="messages-abandoned",
        severity=Severity.WARNING,
        subject=instance_id,
        message="is gone, and its mailbox or messages that it had taken are still there",
        hint="`mnemosyne doctor --fix` hands them on",
    )
    if fix:
        queue.release_of(instance_id)
    return finding.mended() if fix else finding


def _is_leftover(name: str, state: StateDir, lives: Callable[[str], bool]) -> bool:
    """Whether a half-written message is nobody's any more: it names its sender and its process."""
    sender, _, rest = name.partition(".")
    pid = rest.partition(".")[0]
    if is_id(sender) and locks.probe(lock_name(sender), dir_fd=state.folder(INSTANCES)).state is not locks.LockState.MISSING:
        return not lives(sender)
    return not (pid.isdecimal() and os.path.exists(f"/proc/{pid}"))


def _half_sent(state: StateDir, name: str, *, fix: bool) -> Finding:
    finding = Finding(
        code="leftover-message",
        severity=Severity.WARNING,
        subject=f"{QUEUE}/{TMP}/{name}",
        message="its sender died while writing it; it was never sent",
        hint="`mnemosyne doctor --fix` removes it",
    )
    if fix:
        files.remove(name, dir_fd=state.folder(f"{QUEUE}/{TMP}"))
    return finding.mended() if fix else finding


def _set_aside(state: StateDir, where: str) -> Finding:
    kept = [name for name in state.listing(f"{QUEUE}/{where}") if not name.endswith(".reason")]
    what = "refused" if where == REFUSED else "could not be delivered"
    return Finding(
        code=f"messages-{where.replace('_', '-')}",
        severity=Severity.NOTICE,
        subject=f"{QUEUE}/{where}",
        message=f"{len(kept)} message(s) {what}",
        hint="the file beside each says why; delete them when you have seen them",
    )
