"""What happened, in plain words: event to one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from mnemo_coord.dash.branches import few, how
from mnemo_coord.dash.reading import member, number, text
from mnemo_coord.dash.wording import named, plural, time_of_day, who

__all__ = ["Entry", "missed", "told"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the event log."""

    at: str
    """The local time of day."""
    kind: str
    text: str
    tone: str = ""
    about: frozenset[str] = frozenset()
    """The ids and names that it concerns."""


@dataclass(frozen=True, slots=True)
class _Event:
    """An event's parts, ready to be put into a sentence."""

    kind: str
    instance_id: str
    data: dict[str, Any]
    known: dict[str, str]

    def who(self) -> str:
        return who(self.instance_id, text(self.data.get("name")) or self.known.get(self.instance_id, ""))

    def part(self, key: str) -> str:
        return text(self.data.get(key))

    def sender(self) -> str:
        return named(self.part("from_agent"), self.known)

    def receiver(self) -> str:
        address = self.part("to")
        return named(address, self.known) if address else "everybody"

    def message(self) -> str:
        return self.part("message_type") or "a message"


def _came(event: _Event) -> str:
    pid = number(event.data.get("pid"))
    return f"{event.who()} joined" + (f", pid {pid:.0f}" if pid is not None else "")


def _received(event: _Event) -> str:
    delivery = number(event.data.get("delivery")) or 1
    again = f" (delivery {delivery:.0f})" if delivery > 1 else ""
    return f"{named(event.instance_id, event.known)} received {event.message()} from {event.sender()}{again}"


def _acknowledged(event: _Event) -> str:
    return f"{named(event.instance_id, event.known)} acknowledged {event.message()} from {event.sender()}"


def _set_aside(what: str) -> Callable[[_Event], str]:
    return lambda event: (
        f"A message was {what}: {event.part('reason') or 'no reason given'} ({event.part('file') or 'no file'})"
    )


def _found(what: str) -> Callable[[_Event], str]:
    def sentence(event: _Event) -> str:
        hint = f" ({event.part('hint')})" if what == "Found" and event.part("hint") else ""
        about = ": ".join(part for part in (what, event.part("subject"), event.part("message")) if part)
        return about + hint

    return sentence


def _port(event: _Event) -> str:
    port = number(event.data.get("port"))
    url = f" ({event.part('url')})" if event.part("url") else ""
    return f"{event.who()} took {'a port' if port is None else f'port {port:.0f}'}{url}"


def _place(what: str) -> Callable[[_Event], str]:
    def sentence(event: _Event) -> str:
        branch = f", on the branch {event.part('branch')}" if event.part("branch") else ""
        return f"{event.who()} {what} {event.part('path')}".rstrip() + branch

    return sentence


def _joined(event: _Event) -> str:
    sentence = f"{event.who()} works on {event.part('branch') or 'a branch'} ({how(event.data)})"
    return ": ".join(part for part in (sentence, few(event.data)) if part)


def _collided(event: _Event) -> str:
    sentence = f"{event.who()} and {named(event.part('other'), event.known)} are changing the same files"
    return ": ".join(part for part in (sentence, few(event.data)) if part)


def _state(event: _Event) -> str:
    more = f": {event.part('text')}" if event.part("text") else ""
    return f"{event.who()} is {event.part('state') or 'in an unknown state'}{more}"


def _recalled(event: _Event) -> str:
    where = f" in {event.part('namespace')}" if event.part("namespace") else ""
    return f"{event.who()} recalled {_scalar(event.data.get('found')) or 'some'} memories{where}"


def _waited(event: _Event) -> str:
    end = "" if event.data.get("done") is True else ", in vain"
    return f"{event.who()} waited {_scalar(event.data.get('seconds')) or 'some'} s for the shared database{end}"


def _unknown(event: _Event) -> str:
    scalars = [(text(key), _scalar(value)) for key, value in event.data.items()]
    details = ", ".join(f"{key} {value}" for key, value in scalars[:4] if value)
    about = event.who() if event.instance_id else ""
    return ": ".join(part for part in (event.kind or "something", about, details) if part)


def _scalar(value: Any) -> str:
    found = number(value)
    return text(value) if found is None else f"{found:g}"


_SENTENCES: Final[dict[str, tuple[str, Callable[[_Event], str]]]] = {
    "instance_registered": ("good", _came),
    "instance_stalled": ("warn", lambda event: f"{event.who()} stalled: its heartbeat is late"),
    "instance_recovered": ("good", lambda event: f"{event.who()} recovered: it beats again"),
    "instance_died": ("bad", lambda event: f"{event.who()} died"),
    "instance_left": ("", lambda event: f"{event.who()} left"),
    "message_sent": ("", lambda event: f"{event.sender()} sent {event.message()} to {event.receiver()}"),
    "message_received": ("", _received),
    "message_acknowledged": ("dim", _acknowledged),
    "message_dead_lettered": ("warn", _set_aside("dead-lettered")),
    "message_quarantined": ("warn", _set_aside("refused")),
    "port_taken": ("", _port),
    "worktree_added": ("good", _place("works in")),
    "worktree_removed": ("", _place("removed its worktree")),
    "branch_joined": ("good", _joined),
    "branch_released": ("", lambda event: f"{event.who()} no longer works on {event.part('branch') or 'a branch'}"),
    "edits_collided": ("bad", _collided),
    "finding_found": ("warn", _found("Found")),
    "finding_fixed": ("good", _found("Fixed")),
    "agent_state": ("", _state),
    "memory_stored": ("", lambda event: f"{event.who()} remembered something ({event.part('namespace') or 'no namespace'})"),
    "memory_recalled": ("dim", _recalled),
    "memory_waited": ("warn", _waited),
}
_TONES: Final = {"stuck": "bad", "waiting": "warn"}


def told(data: dict[str, Any], known: dict[str, str]) -> Entry:
    """The log's line for one event; ``known`` are the names of instances by id."""
    event = _Event(text(data.get("kind")), text(data.get("instance_id")), member(data, "data"), known)
    tone, sentence = _SENTENCES.get(event.kind, ("", _unknown))
    tone = _TONES.get(event.part("state"), tone) if event.kind == "agent_state" else tone
    return Entry(at=time_of_day(data.get("at")), kind=event.kind, text=sentence(event), tone=tone, about=_about(event))


def _about(event: _Event) -> frozenset[str]:
    ids = {name: key for key, name in event.known.items()}
    said = {event.instance_id, *(event.part(key) for key in ("from_agent", "to", "name", "subject", "other"))}
    both = said | {event.known.get(one, "") for one in said} | {ids.get(one, "") for one in said}
    return frozenset(both - {""})


def missed(data: dict[str, Any], at: str) -> Entry:
    """The log's line for events that never came."""
    count = number(data.get("missed"))
    verb = "was" if count == 1 else "were"
    what = "Some events" if count is None else plural(count, "event")
    return Entry(at=at, kind="gap", text=f"{what} {verb} missed", tone="warn")
