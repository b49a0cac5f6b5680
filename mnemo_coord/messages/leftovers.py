"""What the queue holds that nobody will come for, found and mended: the mailboxes' part of the doctor's work."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from mnemo_coord.disk import files, probes
from mnemo_coord.disk.state_dir import INSTANCES, QUEUE, StateDir
from mnemo_coord.findings import Finding, Severity
from mnemo_coord.members.identity import is_id, lock_name
from mnemo_coord.messages.mailbox import TMP, Mailbox
from mnemo_coord.messages.set_aside import DEAD, REFUSED, count

if TYPE_CHECKING:
    from mnemo_coord.messages.queue import Queue

__all__ = ["check"]


def check(queue: Queue, state: StateDir, lives: Callable[[str], bool], *, fix: bool = False) -> list[Finding]:
    """Mailboxes and claimed messages of instances that are gone, what has expired, leftovers of senders, what was set aside."""
    try:
        mailboxes = list(queue.mailboxes.all())
    except FileNotFoundError:
        return []
    gone = {box.address.text for box in mailboxes if box.address.is_id and not lives(box.address.text)}
    for mailbox in mailboxes:
        gone |= {claimer for claimer, _ in mailbox.claims() if not lives(claimer)}
    found = [_abandoned(queue, instance_id, fix=fix) for instance_id in sorted(gone)]
    found += [
        _expired(queue, box, n, fix=fix) for box in mailboxes if box.address.text not in gone and (n := len(queue.expired(box)))
    ]
    found += [_odd(box, names) for box in mailboxes if box.address.text not in gone and (names := box.odd())]
    found += [_half_sent(state, name, fix=fix) for name in state.listing(f"{QUEUE}/{TMP}") if _is_leftover(name, state, lives)]
    return found + [_set_aside(where, kept) for where in (REFUSED, DEAD) if (kept := count(state, where))]


def _odd(mailbox: Mailbox, names: list[str]) -> Finding:
    return Finding(
        code="messages-odd",
        severity=Severity.NOTICE,
        subject=f"{QUEUE}/{mailbox.address.folder}/new",
        message=f"{len(names)} file(s) there have no message's name, such as {names[0]!r}; they are left alone",
        hint="look at them; remove them when they are of no use",
    )


def _expired(queue: Queue, mailbox: Mailbox, count: int, *, fix: bool) -> Finding:
    finding = Finding(
        code="messages-expired",
        severity=Severity.WARNING,
        subject=mailbox.address.text,
        message=f"{count} message(s) wait there whose time is over",
        hint="`mnemosyne doctor --fix` moves them to the dead letters",
    )
    return finding.mended_by(lambda: queue.sweep(mailbox)) if fix else finding


def _abandoned(queue: Queue, instance_id: str, *, fix: bool) -> Finding:
    finding = Finding(
        code="messages-abandoned",
        severity=Severity.WARNING,
        subject=instance_id,
        message="is gone, and its mailbox or messages that it had taken are still there",
        hint="`mnemosyne doctor --fix` hands them on",
    )
    return finding.mended_by(lambda: queue.release_of(instance_id)) if fix else finding


def _is_leftover(name: str, state: StateDir, lives: Callable[[str], bool]) -> bool:
    """Whether a half-written message is nobody's any more: it names its sender and its process."""
    sender, _, rest = name.partition(".")
    pid = rest.partition(".")[0]
    if is_id(sender) and probes.probe(lock_name(sender), dir_fd=state.folder(INSTANCES)).state is not probes.LockState.MISSING:
        return not lives(sender)
    return not (pid.isdecimal() and os.path.exists(f"/proc/{pid}"))


def _half_sent(state: StateDir, name: str, *, fix: bool) -> Finding:
    finding = Finding(
        code="leftover-message",
        severity=Severity.WARNING,
        subject=f"{QUEUE}/{TMP}/{name}",
        message="its sender died while writing it: it was not sent, or not to everybody",
        hint="`mnemosyne doctor --fix` removes it",
    )
    return finding.mended_by(lambda: files.remove(name, dir_fd=state.folder(f"{QUEUE}/{TMP}"))) if fix else finding


def _set_aside(where: str, kept: int) -> Finding:
    what = "refused" if where == REFUSED else "could not be delivered"
    return Finding(
        code=f"messages-{where.replace('_', '-')}",
        severity=Severity.NOTICE,
        subject=f"{QUEUE}/{where}",
        message=f"{kept} message(s) {what}",
        hint="`mnemosyne queue show` lists them with the reasons",
    )
