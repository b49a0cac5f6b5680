"""The same coordinator for asyncio: the same names, awaited. It has no logic of its own; every call runs in a worker thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mnemo_coord import coordinator, errors
from mnemo_coord.messages.message import NO_PAYLOAD

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from mnemo_coord.branch_work import BranchWork
    from mnemo_coord.events import Broadcaster, Event
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.holdings.assignments import Assignment
    from mnemo_coord.holdings.branch_view import BranchState
    from mnemo_coord.holdings.claims import Claim, Holder
    from mnemo_coord.holdings.occupancy import BranchConflict
    from mnemo_coord.holdings.owner import OwnerLock
    from mnemo_coord.holdings.worktrees import Worktree
    from mnemo_coord.members.instance import Instance
    from mnemo_coord.members.registration import Registration
    from mnemo_coord.members.reports import AgentReport
    from mnemo_coord.memory.awaited import AsyncMemories
    from mnemo_coord.messages.delivery import Delivery, Receipt
    from mnemo_coord.messages.message import Message

__all__ = ["AsyncBranchWork", "AsyncClaim", "AsyncDelivery", "AsyncOwnerLock", "Coordinator"]

_T = TypeVar("_T")
_SLICE = 1.0
"""Seconds that a worker thread waits at a time: how long a cancelled ``receive`` or ``lead`` keeps its thread."""


class _AsyncBlock:
    """A ``with`` block that is entered and left in a worker thread."""

    def __init__(self, block: Any) -> None:
        self.wrapped = block

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    async def __aenter__(self) -> Any:
        return await asyncio.to_thread(self.wrapped.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.wrapped.__exit__, kind, error, trace)


class AsyncDelivery(_AsyncBlock):
    """A `Delivery` to be used with ``async with``; leaving normally acknowledges, raising gives it back."""

    wrapped: Delivery

    async def acknowledge(self) -> None:
        """See `Delivery.acknowledge`."""
        await asyncio.to_thread(self.wrapped.acknowledge)

    async def give_back(self) -> None:
        """See `Delivery.give_back`."""
        await asyncio.to_thread(self.wrapped.give_back)


class AsyncClaim(_AsyncBlock):
    """A `Claim` to be used with ``async with``."""

    wrapped: Claim


class AsyncBranchWork:
    """See `mnemo_coord.branch_work.BranchWork`."""

    def __init__(self, work: BranchWork) -> None:
        self.sync = work

    async def join(self, branch: str, intent: str | None = None, **options: Any) -> Assignment:
        """See `BranchWork.join`."""
        return await asyncio.to_thread(self.sync.join, branch, intent, **options)

    async def switch(self, branch: str, intent: str | None = None, **options: Any) -> Assignment:
        """See `BranchWork.switch`."""
        return await asyncio.to_thread(self.sync.switch, branch, intent, **options)

    async def release(self, branch: str | None = None) -> list[Assignment]:
        """See `BranchWork.release`."""
        return await asyncio.to_thread(self.sync.release, branch)

    async def held(self) -> list[Assignment]:
        """See `BranchWork.held`."""
        return await asyncio.to_thread(self.sync.held)

    async def status(self, *, every: bool = False) -> list[BranchState]:
        """See `BranchWork.status`."""
        return await asyncio.to_thread(self.sync.status, every=every)

    async def conflicts(self) -> list[BranchConflict]:
        """See `BranchWork.conflicts`."""
        return await asyncio.to_thread(self.sync.conflicts)

    async def answer(self, message: Message, *, approve: bool, reason: str = "") -> Receipt:
        """See `BranchWork.answer`."""
        return await asyncio.to_thread(self.sync.answer, message, approve=approve, reason=reason)

    async def attend(self, message: Message) -> bool:
        """See `BranchWork.attend`."""
        return await asyncio.to_thread(self.sync.attend, message)


class AsyncOwnerLock(_AsyncBlock):
    """An `OwnerLock` to be used with ``async with``."""

    wrapped: OwnerLock


async def _in_thread(work: Callable[[], _T], undo: Callable[[_T], object]) -> _T:
    """What ``work`` returns. A thread cannot be stopped: what it still gets for a cancelled caller is undone."""
    getting: asyncio.Future[_T] = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(getting)
    except asyncio.CancelledError:
        getting.add_done_callback(lambda got: got.cancelled() or got.exception() or undo(got.result()))
        raise


def _give_back(delivery: Delivery | None) -> None:
    if delivery is not None:
        delivery.give_back()


class Coordinator:
    """`mnemo_coord.Coordinator` for asyncio. Takes the same arguments; use it with ``async with``."""

    def __init__(self, state_dir: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self.sync = coordinator.Coordinator(state_dir, **options)
        """The coordinator that does the work."""

    async def __aenter__(self) -> Self:
        await self.register()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.unregister()

    async def register(self, *, api: tuple[str, int] | None = None) -> str:
        """See `mnemo_coord.Coordinator.register`."""
        return await asyncio.to_thread(self.sync.register, api=api)

    async def unregister(self) -> None:
        """See `mnemo_coord.Coordinator.unregister`."""
        await asyncio.to_thread(self.sync.unregister)

    @property
    def name(self) -> str | None:
        """The name that was asked for."""
        return self.sync.name

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that were asked for."""
        return self.sync.roles

    @property
    def instance_id(self) -> str:
        """8 hex digits, new at each registration."""
        return self.sync.instance_id

    @property
    def fleet(self) -> Fleet:
        """The fleet, whose methods are synchronous."""
        return self.sync.fleet

    @property
    def events(self) -> Broadcaster:
        """The events of this process."""
        return self.sync.events

    @property
    def registration(self) -> Registration:
        """What this instance says of itself."""
        return self.sync.registration

    @property
    def token(self) -> str | None:
        """The token of this instance's API."""
        return self.sync.token

    @property
    def healthy(self) -> bool:
        """Whether its heartbeat and its lookout work."""
        return self.sync.healthy

    async def send(self, address: str, message_type: str, payload: Any = NO_PAYLOAD, **options: Any) -> Receipt:
        """See `mnemo_coord.Coordinator.send`."""
        return await asyncio.to_thread(self.sync.send, address, message_type, payload, **options)

    async def reply(
        self, message: Message, message_type: str, payload: Any = NO_PAYLOAD, *, durable: bool | None = None
    ) -> Receipt:
        """See `mnemo_coord.Coordinator.reply`."""
        return await asyncio.to_thread(self.sync.reply, message, message_type, payload, durable=durable)

    async def request(
        self,
        address: str,
        message_type: str,
        payload: Any = NO_PAYLOAD,
        *,
        timeout: float,  # noqa: ASYNC109  # the mirror has its names
    ) -> Message:
        """See `mnemo_coord.Coordinator.request`."""
        return await asyncio.to_thread(self.sync.request, address, message_type, payload, timeout=timeout)

    async def broadcast(
        self,
        message_type: str,
        payload: Any = NO_PAYLOAD,
        *,
        durable: bool | None = None,
        message_id: str | None = None,
        ttl: float | None = None,
    ) -> Receipt:
        """See `mnemo_coord.Coordinator.broadcast`."""
        return await asyncio.to_thread(
            self.sync.broadcast, message_type, payload, durable=durable, message_id=message_id, ttl=ttl
        )

    async def receive(self, timeout: float = 0.0) -> AsyncIterator[AsyncDelivery]:  # noqa: ASYNC109  # the mirror has its names
        """See `mnemo_coord.Coordinator.receive`."""
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            waiting = self.sync.receive(min(left, _SLICE))
            first = True
            while (delivery := await _in_thread(partial(next, waiting, None), _give_back)) is not None:
                first = False
                yield AsyncDelivery(delivery)
            if not first or left <= _SLICE:
                return

    def on_message(self, callback: Callable[[Message], None]) -> Callable[[], None]:
        """See `mnemo_coord.Coordinator.on_message`; the callback runs in the event loop of the caller."""
        loop = asyncio.get_running_loop()

        def hand_over(message: Message) -> None:
            async def call() -> None:
                callback(message)

            asyncio.run_coroutine_threadsafe(call(), loop).result()

        return self.sync.on_message(hand_over)

    def on_event(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """See `mnemo_coord.Coordinator.on_event`; the callback runs in the event loop of the caller."""
        loop = asyncio.get_running_loop()

        def hand_over(event: Event) -> None:
            loop.call_soon_threadsafe(callback, event)

        return self.sync.on_event(hand_over)

    async def instances(self) -> list[Instance]:
        """See `mnemo_coord.Coordinator.instances`."""
        return await asyncio.to_thread(self.sync.instances)

    async def report(self, state: str, text: str = "") -> AgentReport:
        """See `mnemo_coord.Coordinator.report`."""
        return await asyncio.to_thread(self.sync.report, state, text)

    async def claim(self, name: str, *, timeout: float = 0.0) -> AsyncClaim:  # noqa: ASYNC109  # likewise
        """See `mnemo_coord.Coordinator.claim`; ``async with await me.claim("x"):``."""
        return AsyncClaim(await asyncio.to_thread(self.sync.claim, name, timeout=timeout))

    async def lead(self, name: str, *, timeout: float | None = None) -> AsyncClaim:  # noqa: ASYNC109  # likewise
        """See `mnemo_coord.Coordinator.lead`; ``async with await me.lead("x"):``. Cancelled, it no longer stands for it."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                standing = partial(self.sync.lead, name, timeout=min(left, _SLICE))
                return AsyncClaim(await _in_thread(standing, lambda claim: claim.release()))
            except errors.Conflict:
                if left <= _SLICE:
                    raise

    def on_lead(self, name: str, callback: Callable[[Claim], None]) -> Callable[[], None]:
        """See `mnemo_coord.Coordinator.on_lead`; the callback runs in a thread of its own, because it takes long."""
        return self.sync.on_lead(name, callback)

    async def leader(self, name: str) -> Holder | None:
        """See `mnemo_coord.Coordinator.leader`."""
        return await asyncio.to_thread(self.sync.leader, name)

    async def own(self, path: str | os.PathLike[str], *, component: str | None = None, retry: float = 0.0) -> AsyncOwnerLock:
        """See `mnemo_coord.Coordinator.own`; ``async with await me.own(path):``. Cancelled, it does not keep the lock."""
        taking = partial(self.sync.own, path, component=component, retry=retry)
        return AsyncOwnerLock(await _in_thread(taking, lambda lock: lock.release()))

    async def open_worktree(self, branch: str | None = None, *, base: str = "HEAD") -> Worktree:
        """See `mnemo_coord.Coordinator.open_worktree`."""
        return await asyncio.to_thread(self.sync.open_worktree, branch, base=base)

    async def watch_edits(self, path: str | os.PathLike[str] | None = None) -> Callable[[], None]:
        """See `mnemo_coord.Coordinator.watch_edits`; the function that ends it may wait for two seconds."""
        return await asyncio.to_thread(self.sync.watch_edits, path)

    @property
    def branches(self) -> AsyncBranchWork:
        """See `mnemo_coord.Coordinator.branches`."""
        return AsyncBranchWork(self.sync.branches)

    @property
    def memory(self) -> AsyncMemories:
        """See `mnemo_coord.Coordinator.memory`."""
        from mnemo_coord.memory.awaited import AsyncMemories

        return AsyncMemories(self.sync.memory)

    async def heartbeat(self) -> None:
        """See `mnemo_coord.Coordinator.heartbeat`."""
        await asyncio.to_thread(self.sync.heartbeat)

    async def cleanup_stale(self) -> list[str]:
        """See `mnemo_coord.Coordinator.cleanup_stale`."""
        return await asyncio.to_thread(self.sync.cleanup_stale)
