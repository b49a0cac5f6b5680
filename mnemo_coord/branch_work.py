"""Branch work: what one instance does on branches, and what it says to the others about it.

The decision is not a conversation: it is made under a lock, at once (`holdings.branches`). What travels as messages are wishes
and news between the instances concerned::

    JoinRequest            from who was refused, to each who is in the way      {"branch", "intent", "mode", "files"}
    IsolationRequest       the same, where it wants to be alone among others who would share
    JoinApproval           the answer: "come" (the holder's consent is noted; or it has left)   {"branch"}
    JoinDenial             the answer: "no"                                     {"branch", "reason"}
    ConflictNotification   from who joined, to those whom it is close to        {"branch", "severity", "reason", "files"}

An answer by a program that knows what it is doing is worth more than one by rule, so nothing answers by itself but
`mnemosyne serve`, which calls `BranchWork.attend`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mnemo_coord import errors
from mnemo_coord.events import EventKind
from mnemo_coord.holdings.assignments import Assignment, Mode, draft
from mnemo_coord.messages.delivery import Receipt
from mnemo_coord.messages.message import (
    CONFLICT_NOTIFICATION,
    ISOLATION_REQUEST,
    JOIN_APPROVAL,
    JOIN_DENIAL,
    JOIN_REQUEST,
    Message,
)

if TYPE_CHECKING:
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.holdings.branch_view import BranchState
    from mnemo_coord.holdings.occupancy import BranchConflict

__all__ = ["BYPASS_ROLE", "BranchWork"]

BYPASS_ROLE: Final = "orchestrator"
"""Who has this role is refused nothing."""
_PAUSE: Final = 0.2
"""Seconds between two tries of who cannot be answered."""
_FILES_TOLD: Final = 8
"""Globs in a message, which holds 1,024 bytes; "…" stands for the others."""
_TEXT_TOLD: Final = 200

Ask = Callable[[str, str, Any, float, Callable[[], bool]], Message]
"""Asks an address, with type and payload, for so many seconds or until it is no longer needed, and returns the answer."""


class BranchWork:
    """What one instance does on branches. ``ask`` is None for a program that speaks for it from outside."""

    def __init__(self, fleet: Fleet, instance_id: str, roles: tuple[str, ...], ask: Ask | None = None) -> None:
        self._fleet = fleet
        self._id = instance_id
        self._roles = roles
        self._ask = ask

    # Joining and leaving

    @errors.translated
    def join(
        self,
        branch: str,
        intent: str | None = None,
        *,
        files: Iterable[str] = (),
        mode: str = "isolated",
        timeout: float = 0.0,
    ) -> Assignment:
        """Begins to work on a branch, or changes how. What is refused changes nothing.

        Args:
            branch: its name. It need not exist yet.
            intent: ``read``, ``write`` or ``full``; by default ``write`` if files are given, else ``full``.
            files: globs of what is to be changed, from the root of the repository.
            mode: ``isolated``, nobody else changes anything there, or ``coordinated``.
            timeout: seconds in which those who are in the way may consent or leave; they are asked.

        Raises:
            errors.Conflict: others are in the way: ``conflicts`` says who and how, ``suggestions`` what else could be done.
            errors.Config: the branch, the intent, the mode or a glob is not valid.
            errors.NotFound: the instance is gone.
            errors.Command: git is missing.
        """
        return self._take(draft(self._id, branch, intent, files, mode), timeout, switch=False)

    @errors.translated
    def switch(
        self,
        branch: str,
        intent: str | None = None,
        *,
        files: Iterable[str] = (),
        mode: str = "isolated",
        timeout: float = 0.0,
    ) -> Assignment:
        """Begins to work on a branch and ends it on all others, in one step; what is refused changes nothing. See `join`."""
        return self._take(draft(self._id, branch, intent, files, mode), timeout, switch=True)

    def _take(self, wish: Assignment, timeout: float, *, switch: bool) -> Assignment:
        deadline = time.monotonic() + timeout
        asked: set[str] = set()
        while True:
            try:
                return self._try(wish, switch=switch)
            except errors.Conflict as refusal:
                left = deadline - time.monotonic()
                if left <= 0 or "conflicts" not in refusal.data:
                    raise
                self._seek_consent(wish, refusal, asked, left)

    def _try(self, wish: Assignment, *, switch: bool) -> Assignment:
        before = self.held()
        taken, decision = self._fleet.branches.join(wish, bypass=BYPASS_ROLE in self._roles, switch=switch)
        for one in before if switch else ():
            if one.branch != taken.branch:
                self._tell(EventKind.BRANCH_RELEASED, one)
        self._tell(EventKind.BRANCH_JOINED, taken)
        for found in decision.conflicts:
            with suppress(errors.CoordinationError):  # they are told, if they can be; it is not theirs to decide any more
                self._send(found.other, CONFLICT_NOTIFICATION, _news(found))
        return taken

    def _seek_consent(self, wish: Assignment, refusal: errors.Conflict, asked: set[str], left: float) -> None:
        """Asks the next of those who are in the way, and returns when it is worth trying again.

        Raises:
            errors.Conflict: it said no.
        """
        found = next((found for found in refusal.conflicts if found.other not in asked), None)
        if found is None or self._ask is None:
            for one in refusal.conflicts if self._ask is None else ():
                if one.other not in asked:
                    asked.add(one.other)
                    self._send(one.other, self._request_type(wish, one), _as_payload(wish), ttl=left)
            time.sleep(min(left, _PAUSE))
            return
        asked.add(found.other)
        with suppress(errors.TimedOut, errors.UnknownAddress):  # then it is gone, or time is over: the next try says
            answer = self._ask(
                found.other, self._request_type(wish, found), _as_payload(wish), left, lambda: self._is_free(wish)
            )
            if answer.message_type == JOIN_DENIAL:
                raise _denied(refusal, found.other, answer)

    def _is_free(self, wish: Assignment) -> bool:
        return not self._fleet.branches.obstacles(wish)

    def _request_type(self, wish: Assignment, found: BranchConflict) -> str:
        """To share, or, where the other would share and the wisher would not, to leave."""
        held = next((one for one in self._fleet.branches.of(found.other) if one.branch == wish.branch), None)
        alone = wish.mode is Mode.ISOLATED and held is not None and held.mode is Mode.COORDINATED
        return ISOLATION_REQUEST if alone else JOIN_REQUEST

    @errors.translated
    def release(self, branch: str | None = None) -> list[Assignment]:
        """Ends the work on a branch, or on all, and returns what was given back.

        Raises:
            errors.NotFound: there is nothing to give back.
        """
        given = self._fleet.branches.release(self._id, branch)
        for one in given:
            self._tell(EventKind.BRANCH_RELEASED, one)
        return given

    # Looking

    @errors.translated
    def held(self) -> list[Assignment]:
        """What this instance works on."""
        return self._fleet.branches.of(self._id)

    @errors.translated
    def status(self, *, every: bool = False) -> list[BranchState]:
        """The branches on which somebody works; with ``every`` also those that are merely checked out somewhere."""
        return self._fleet.branches.states(every=every)

    @errors.translated
    def conflicts(self) -> list[BranchConflict]:
        """What is between instances that work on one branch: they are close, or it was consented to, or bypassed."""
        return self._fleet.branches.conflicts()

    # Answering

    @errors.translated
    def answer(self, message: Message, *, approve: bool, reason: str = "") -> Receipt:
        """Answers a JoinRequest or an IsolationRequest.

        To approve a JoinRequest is to consent: the asker may join although this instance is in the way, unless both are at
        critical files. To approve an IsolationRequest is to end one's own work on that branch.

        Raises:
            errors.Config: the message is neither, or does not say which branch.
            errors.UnknownAddress: the asker is gone.
        """
        branch = message.payload.get("branch") if isinstance(message.payload, dict) else None
        if message.message_type not in {JOIN_REQUEST, ISOLATION_REQUEST} or not isinstance(branch, str):
            raise errors.Config(f"a {message.message_type} is not a request for a branch", key="message")
        if not approve:
            return self._reply(message, JOIN_DENIAL, {"branch": branch, "reason": reason[:_TEXT_TOLD]})
        with suppress(errors.NotFound):  # it has left already
            if message.message_type == ISOLATION_REQUEST:
                self.release(branch)
            else:
                self._fleet.branches.admit(self._id, branch, message.from_agent)
        return self._reply(message, JOIN_APPROVAL, {"branch": branch})

    def attend(self, message: Message) -> bool:
        """Answers by rule, for who has nobody to ask: who is no longer in the way consents, who works does not.

        Returns whether the message was a request that is answered now.
        """
        if message.message_type not in {JOIN_REQUEST, ISOLATION_REQUEST}:
            return False
        with suppress(errors.CoordinationError):
            wish = _wish(message)
            found = [one for one in self._fleet.branches.obstacles(wish) if one.other == self._id]
            self.answer(message, approve=not found, reason=f"{found[0].reason}, and goes on" if found else "")
        return True

    def _reply(self, message: Message, message_type: str, payload: dict[str, Any]) -> Receipt:
        return self._send(message.from_agent, message_type, payload, reply_to=message.id)

    def _send(self, address: str, message_type: str, payload: Any, **options: Any) -> Receipt:
        receipt = self._fleet.send(address, message_type, payload, sender=self._id, **options)
        if receipt.failed:
            raise errors.UnknownAddress(f"{address}: {receipt.failed[0].reason}", address=address)
        return receipt

    def _tell(self, kind: EventKind, one: Assignment) -> None:
        self._fleet.branch_news.tell(kind, one)


def _as_payload(wish: Assignment) -> dict[str, Any]:
    return {"branch": wish.branch, "intent": str(wish.intent), "mode": str(wish.mode), "files": _some(wish.files)}


def _wish(message: Message) -> Assignment:
    said: Any = message.payload if isinstance(message.payload, dict) else {}
    files = said.get("files", [])
    if not isinstance(files, list) or "…" in files:
        files = ["**"]
    return draft(message.from_agent, said.get("branch", ""), said.get("intent"), files, said.get("mode", Mode.ISOLATED))


def _news(found: BranchConflict) -> dict[str, Any]:
    return {
        "branch": found.branch,
        "severity": str(found.severity),
        "reason": f"{found.instance_id} joined: {found.reason}"[:_TEXT_TOLD],
        "files": _some(found.files),
    }


def _some(files: tuple[str, ...]) -> list[str]:
    """As many as fit, whatever their length."""
    told: list[str] = []
    for glob in files:
        if len(told) == _FILES_TOLD or sum(len(known.encode()) for known in told) + len(glob.encode()) > _TEXT_TOLD:
            return [*told, "…"]
        told.append(glob)
    return told


def _denied(refusal: errors.Conflict, holder: str, answer: Message) -> errors.Conflict:
    said = answer.payload.get("reason") if isinstance(answer.payload, dict) else ""
    why = f": {str(said)[:_TEXT_TOLD]}" if said else ""
    return errors.Conflict(f"{holder} does not consent{why}", hint=refusal.hint, **{**refusal.data, "holder": holder})
