"""``mnemosyne receive``: what waits for a name or a role, for programs that are no instances."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line
from mnemo_coord.display import json_line

if TYPE_CHECKING:
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.messages.address import Address
    from mnemo_coord.messages.message import Message

_RECOVERY = 0.5
"""Seconds between two looks for receivers that died with a message in hand."""
_PAUSE = 0.02
"""Seconds between two looks. A command that lives for a moment starts no watcher: they are few in number (128 a user)."""


@click.command("receive")
@click.option("--as", "address", metavar="ADDRESS", required=True, help="A name or @ROLE.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="S", help="Seconds to wait for the first message. [0]")
@click.option("--follow", is_flag=True, help="Go on until interrupted, or until --timeout passes without a message.")
@click.option("--peek", is_flag=True, help="Show what waits and leave it.")
@common
def command(shared: Common, *, address: str, timeout: float | None, follow: bool, peek: bool) -> int:
    """Take what waits for a name or role, print it, and acknowledge it once it has been printed."""
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.messages.address import Address

    where = Address.parse(address)
    if where.is_id:
        raise errors.Config("an id's messages are its instance's own", hint="give a name or @ROLE", key="as")
    if peek:
        seen = _peek(where, shared)
    else:
        with Fleet.open(shared.dir) as fleet:
            seen = _take(fleet, where, shared, timeout=timeout, follow=follow)
    if not seen:
        raise errors.TimedOut(f"nothing waits for {address}", hint="--timeout S waits for a message", timeout=timeout or 0)
    return 0


def _peek(where: Address, shared: Common) -> int:
    """Prints what waits and leaves it; returns how many."""
    from mnemo_coord.fleet import Fleet

    seen = 0
    with suppress(errors.NotFound), Fleet.open(shared.dir, create=False) as fleet:
        for message in fleet.queue.peek([where]):
            _show(message, shared)
            seen += 1
    return seen


def _take(fleet: Fleet, where: Address, shared: Common, *, timeout: float | None, follow: bool) -> int:
    """Prints and acknowledges; returns how many."""
    seen = 0
    last, recovered = time.monotonic(), float("-inf")
    with _visitor(fleet) as claimer:
        while True:
            got = seen
            if time.monotonic() - recovered > _RECOVERY:
                fleet.queue.recover([where], claimer, fleet.lives)  # there may be no instance alive that would do it
                recovered = time.monotonic()
            for delivery in fleet.queue.receive([where], claimer):
                with delivery as message:
                    _show(message, shared, delivery.delivery)
                    seen += 1
            if seen > got:
                last = time.monotonic()
                if not follow:
                    return seen
            patience = timeout if timeout is not None else (float("inf") if follow else 0.0)
            if time.monotonic() - last >= patience:
                return seen
            time.sleep(_PAUSE)


@contextmanager
def _visitor(fleet: Fleet) -> Iterator[str]:
    """A lock of our own without a registration: if we die with a message in hand, others can prove it and hand it on."""
    from mnemo_coord.members.identity import draw

    instance_id, lock = draw(fleet.state)
    try:
        yield instance_id
    finally:
        fleet.queue.release_of(instance_id)
        lock.remove()


def _show(message: Message, shared: Common, delivery: int | None = None) -> None:
    if shared.as_json:
        document({**asdict(message), "delivery": delivery})
    else:
        content = json_line(message.payload)
        again = f"  (delivery {delivery})" if delivery and delivery > 1 else ""
        line(f"{message.timestamp}  {message.message_type}  from {message.from_agent}  {content}{again}")
