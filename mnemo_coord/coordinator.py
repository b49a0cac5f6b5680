"""The coordinator: this process as an instance of a fleet.

It registers, beats, watches its mailboxes and its fleet, and leaves. All of that is the membership's work; this is the
interface that programs use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from mnemo_coord import errors
from mnemo_coord.disk.clock import Clock
from mnemo_coord.events import Broadcaster, Event
from mnemo_coord.fleet import Fleet
from mnemo_coord.holdings import owner
from mnemo_coord.holdings.claims import Claim, ClaimKind, Holder
from mnemo_coord.members.identity import check_name, check_role
from mnemo_coord.members.instance import Instance
from mnemo_coord.members.registration import Registration
from mnemo_coord.members.reports import AgentReport
from mnemo_coord.membership import Membership
from mnemo_coord.messages.delivery import Delivery, Receipt
from mnemo_coord.messages.message import NO_PAYLOAD, Message
from mnemo_coord.settings import Settings

if TYPE_CHECKING:
    from mnemo_coord.branch_work import BranchWork
    from mnemo_coord.holdings.worktrees import Worktree
    from mnemo_coord.memory.memories import Memories

__all__ = ["Coordinator"]


class Coordinator:
    """One instance of a fleet. As a ``with`` block: registered inside, gone after.

    Args:
        state_dir: the state directory; by default the one that applies to the current directory.
        name: whose place this instance takes. One at a time has a name; messages for it wait while nobody does.
        roles: what it can do. A message to ``@role`` goes to exactly one holder of that role.
        settings: defaults to those of the environment.
        clock: for tests.

    Raises:
        errors.Config: a name, role or setting is not valid.
    """

    def __init__(
        self,
        state_dir: str | os.PathLike[str] | None = None,
        *,
        name: str | None = None,
        roles: Iterable[str] = (),
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = None if name is None else check_name(name)
        self.roles = tuple(dict.fromkeys(check_role(role) for role in roles))
        self._state_dir = state_dir
        self._settings = settings
        self._clock = clock
        self._member: Membership | None = None

    # Coming and going

    @errors.translated
    def register(self, *, api: tuple[str, int] | None = None) -> str:
        """Joins the fleet and returns the instance's id. ``api`` is host and port of an API that is already bound.

        Raises:
            errors.Conflict: somebody alive has the name, or this coordinator is registered already.
            errors.State: the state directory cannot be used.
            errors.TimedOut: the registry stayed locked.
        """
        if self._member is not None:
            raise errors.Conflict(f"already registered as {self.instance_id}")
        fleet = Fleet.open(self._state_dir, settings=self._settings, clock=self._clock)
        try:
            self._member = Membership(fleet, self.name, self.roles, api)
        except BaseException:
            fleet.close()
            raise
        return self.instance_id

    @errors.translated
    def unregister(self) -> None:
        """Leaves the fleet and removes everything that is this instance's own. Idempotent; nothing in a forked child."""
        member, self._member = self._member, None
        if member is not None and member.pid == os.getpid():
            member.leave()

    def __enter__(self) -> Self:
        self.register()
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()

    @property
    def _here(self) -> Membership:
        if self._member is None:
            raise errors.Conflict("not registered", hint="use it as a `with` block, or call register() first")
        return self._member

    @property
    def instance_id(self) -> str:
        """8 hex digits, new at each registration."""
        return self._here.instance_id

    @property
    def fleet(self) -> Fleet:
        """The fleet that this instance is in."""
        return self._here.fleet

    @property
    def events(self) -> Broadcaster:
        """The events of this process."""
        return self.fleet.events

    @property
    def registration(self) -> Registration:
        """What this instance says of itself."""
        return self._here.registration

    @property
    def token(self) -> str | None:
        """The token of this instance's API; None where it has none."""
        return self._here.token

    @property
    def healthy(self) -> bool:
        """Whether its heartbeat and its lookout work."""
        return self._here.healthy

    # Messages

    @errors.translated
    def send(
        self,
        address: str,
        message_type: str,
        payload: Any = NO_PAYLOAD,
        *,
        durable: bool | None = None,
        message_id: str | None = None,
        reply_to: str | None = None,
        ttl: float | None = None,
    ) -> Receipt:
        """Sends one message to an instance id, a name or an ``@role``.

        A name or role without a holder gets it when there is one (``receipt.waiting``).

        Args:
            address: where to.
            message_type: 1 to 64 printable characters.
            payload: any JSON value.
            durable: whether it survives a power cut; by default as the settings say.
            message_id: its id, for who wants to be able to send it again: what is sent twice under one id stays one message.
            reply_to: the id of the message that it answers.
            ttl: seconds after which it is worth nothing; not handled by then, it goes to the dead letters.

        Raises:
            errors.UnknownAddress: no live instance has this id.
            errors.MailboxFull: too many messages wait there.
            errors.Conflict: another message has this ``message_id``.
            errors.Config: address, type, payload or another argument are not valid, or the message is too large.
            errors.Unknown: it is there, but might not survive a power cut, which was asked for.
            errors.State: it could not be written.
        """
        return self._here.send(
            address, message_type, payload, durable=durable, message_id=message_id, reply_to=reply_to, ttl=ttl
        )

    @errors.translated
    def reply(self, message: Message, message_type: str, payload: Any = NO_PAYLOAD, *, durable: bool | None = None) -> Receipt:
        """Answers a message: sends to whoever sent it, with ``reply_to`` set. Raises as `send` does."""
        return self.send(message.from_agent, message_type, payload, durable=durable, reply_to=message.id)

    @errors.translated
    def request(self, address: str, message_type: str, payload: Any = NO_PAYLOAD, *, timeout: float) -> Message:
        """Sends one message and returns the answer to it, the first message whose ``reply_to`` is its id.

        The request expires with the timeout, so nobody works on what nobody waits for. What else arrives meanwhile waits for
        `receive`. An answer that comes too late does so, too.

        Raises:
            errors.TimedOut: no answer within ``timeout`` seconds; ``id`` is that of the request.
            errors.UnknownAddress: no live instance has this id, or it ended before it answered.
            errors.CoordinationError: as `send` does.
        """
        return self._here.request(address, message_type, payload, timeout)

    @errors.translated
    def broadcast(
        self,
        message_type: str,
        payload: Any = NO_PAYLOAD,
        *,
        durable: bool | None = None,
        message_id: str | None = None,
        ttl: float | None = None,
    ) -> Receipt:
        """Sends a copy to every live instance but this one; the receipt names who got it and who did not.

        Sent again under the same ``message_id``, it reaches those who do not have it yet. Arguments and errors are those of
        `send`; what concerns one receiver only is in the receipt.
        """
        return self._here.fleet.broadcast(
            message_type, payload, sender=self.instance_id, durable=durable, message_id=message_id, ttl=ttl
        )

    def receive(self, timeout: float = 0.0) -> Iterator[Delivery]:
        """What waits for this instance, its name and its roles; waits up to ``timeout`` seconds for the first.

        Each message is claimed when the iteration comes to it. Acknowledge each delivery, best as a ``with`` block.
        """
        return self._here.receiver.receive(timeout)

    def on_message(self, callback: Callable[[Message], None]) -> Callable[[], None]:
        """Calls back for every message, in a thread of its own; returning acknowledges it, raising gives it back.

        Returns the function that ends it.
        """
        return self._here.receiver.on_message(callback)

    def on_event(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Calls back for every event of this process. Returns the function that ends it."""
        return self._here.on_event(callback)

    # The fleet

    @errors.translated
    def instances(self) -> list[Instance]:
        """Everybody who is registered, with a verdict."""
        return self.fleet.instances()

    @errors.translated
    def report(self, state: str, text: str = "") -> AgentReport:
        """Says what this instance is doing: for people who look, and published as `agent_state` wherever events are heard.

        Args:
            state: ``working``, ``idle``, ``waiting`` or ``stuck``.
            text: at what, or for what; at most 200 characters.

        Raises:
            errors.Config: one of the two is not valid.
            errors.State: it could not be written.
        """
        return self._here.report(state, text)

    @errors.translated
    def claim(self, name: str, *, timeout: float = 0.0) -> Claim:
        """Takes what one instance of the fleet may hold; the kernel frees it when this process ends.

        Raises:
            errors.Conflict: it is held by another after ``timeout`` seconds; ``holder`` says by whom.
        """
        return self._here.claim(name, timeout)

    @errors.translated
    def lead(self, name: str, *, timeout: float | None = None) -> Claim:
        """Blocks until this instance is the leader of that name; leave the ``with`` block to step down.

        When a leader's process ends, however it ends, another candidate leads within a second. ``claim.epoch`` rises with
        each leader; ``claim.check()`` and ``claim.write(path, data)`` refuse one who is no longer it.

        Raises:
            errors.Conflict: another still leads after ``timeout`` seconds (None: wait for ever); ``holder`` says who.
        """
        return self._here.lead(name, timeout)

    def on_lead(self, name: str, callback: Callable[[Claim], None]) -> Callable[[], None]:
        """Stands for the leadership of that name, and calls back with the claim, in a thread of its own, once elected.

        It leads until the callback returns. If the callback raises, it steps down and stands again. Returns the function
        that ends the candidacy; it does not interrupt a callback.
        """
        return self._here.on_lead(name, callback)

    @errors.translated
    def leader(self, name: str) -> Holder | None:
        """Who leads that name now: ``instance_id``, ``pid``, ``epoch``, ``since``; None when nobody does."""
        return self.fleet.claims.holder(ClaimKind.LEADER, name)

    @errors.translated
    def own(self, path: str | os.PathLike[str], *, component: str | None = None, retry: float = 0.0) -> owner.OwnerLock:
        """Takes the owner lock of any file: ``<path>.lock``.

        Args:
            path: what is to be owned. It need not exist.
            component: the part of the program that needs it, such as ``the scheduler``: the error says that it is not started.
            retry: seconds to wait for its owner to end.

        Raises:
            errors.Conflict: another owner still has it: process ``holder``, ``instance_id``. The hint says how to keep apart.
            errors.State: the lock file cannot be made or is not ours.
        """

        def variable() -> str:
            from mnemo_coord.instances.scope import variable_near

            return variable_near(path)

        return owner.own(
            path, self.fleet.clock, instance_id=self.instance_id, retry=retry, component=component, variable=variable
        )

    @errors.translated
    def open_worktree(self, branch: str | None = None, *, base: str = "HEAD") -> Worktree:
        """Makes a git worktree for this instance, at ``worktrees/<id>`` in the state directory.

        It is removed when the instance leaves, unless something would be lost: uncommitted or unpushed work stays.

        Args:
            branch: what to check out there, made where there is none; by default a new one, ``mnemosyne/<id>``.
            base: where a new branch begins.

        Raises:
            errors.Conflict: it has one already, or the branch is checked out elsewhere.
            errors.NotFound: there is no repository, or no such ``base``.
            errors.Config: that is no name of a branch.
            errors.Command: git failed; everything is as it was.
            errors.TimedOut: git took too long.
        """
        return self._here.open_worktree(branch, base)

    @errors.translated
    def watch_edits(self, path: str | os.PathLike[str] | None = None) -> Callable[[], None]:
        """Watches the checkout around a folder, and tells the others which of its files this instance is changing.

        In return it learns of files that another is changing, too, or holds: as `edits_collided` events, and, from who came
        later, as a ``ConflictNotification``. What git ignores is not looked at. One checkout at a time: a second call takes
        the place of the first. Returns the function that ends it; leaving the fleet does, too.

        Args:
            path: by default the worktree of this instance, if it has one, else the current directory.

        Raises:
            errors.NotFound: there is no checkout of a git repository around it.
            errors.Command: git is missing, too old, or refuses.
            errors.TimedOut: git took longer than three seconds.
        """
        return self._here.watch_edits(path)

    @property
    def branches(self) -> BranchWork:
        """What this instance does on branches: ``join``, ``switch``, ``release``, ``status``, ``conflicts``, ``answer``."""
        return self._here.branches

    @property
    def memory(self) -> Memories:
        """What all instances know together: ``store``, ``recall``, ``forget`` and more. Opened at the first use."""
        member = self._here
        return member.fleet.memory.written_by(member.instance_id, self.name, member.fleet.events)

    @errors.translated
    def heartbeat(self) -> None:
        """Beats once, and mends what is no longer as it should be. For programs that bring their own loop."""
        self._here.beat()

    @errors.translated
    def cleanup_stale(self) -> list[str]:
        """Reaps every dead instance now. Returns their ids."""
        return self.fleet.cleanup_stale()
