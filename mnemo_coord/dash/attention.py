"""What needs a person's attention: overview to a list of items, the worst first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from mnemo_coord.dash.branches import few, grave, why
from mnemo_coord.dash.reading import items, member, number, text
from mnemo_coord.dash.rows import LATE
from mnemo_coord.dash.wording import age, names, plural, shortened, who

__all__ = ["Item", "attention"]


class Item(NamedTuple):
    """One thing that needs attention."""

    sign: str
    """What it is in one word, so that colour is not needed."""
    tone: str
    """``bad`` or ``warn``."""
    text: str
    hint: str = ""


_ILL: Final = {"dead": "bad", "untrusted": "bad", "stalled": "warn"}
_NOT_OBEYED: Final = frozenset({"dead", "untrusted"})
_ASKING: Final = {"stuck": "bad", "waiting": "warn"}
_SET_ASIDE: Final = "`mnemosyne queue show` says which and why"


def attention(overview: dict[str, Any]) -> list[Item]:
    """Everything that needs attention: what is bad, then what is to be looked at. Empty when all is well."""
    looks = (_reports, _statuses, _findings, _conflicts, _set_aside, _late)
    found = [item for look in looks for item in look(overview)]
    return sorted(found, key=lambda item: item.tone != "bad")


def _reports(overview: dict[str, Any]) -> Iterator[Item]:
    for instance in items(overview, "instances"):
        report = member(instance, "report")
        state, more = text(report.get("state")), text(report.get("text"))
        if state in _ASKING and text(instance.get("status")) not in _NOT_OBEYED:
            yield Item(state, _ASKING[state], f"{_who(instance)}: {more or 'it does not say why'}")


def _statuses(overview: dict[str, Any]) -> Iterator[Item]:
    """The ill; where a finding says more about one, that stands for both."""
    explained = {text(finding.get("subject")) for finding in _serious(overview) if _explains(finding)}
    for instance in items(overview, "instances"):
        status = text(instance.get("status"))
        if status in _ILL and text(instance.get("instance_id")) not in explained:
            yield Item(status, _ILL[status], f"{_who(instance)}: {_heard(instance)}")


def _heard(instance: dict[str, Any]) -> str:
    if text(instance.get("status")) == "untrusted":
        return "its entry is not signed with this fleet's key"
    last = age(instance.get("heartbeat_age"))
    return "no heartbeat is known" if last == "-" else f"its last heartbeat was {last} ago"


def _who(instance: dict[str, Any]) -> str:
    return who(text(instance.get("instance_id")), text(instance.get("name")))


def _serious(overview: dict[str, Any]) -> list[dict[str, Any]]:
    found = items(overview, "findings")
    return [finding for finding in found if finding.get("severity") != "notice" and finding.get("fixed") is not True]


def _explains(finding: dict[str, Any]) -> bool:
    """Whether it says why an instance has the status that it has."""
    return text(finding.get("code")).startswith(("instance-", "entry-"))


def _findings(overview: dict[str, Any]) -> Iterator[Item]:
    known = {text(instance.get("instance_id")): instance for instance in items(overview, "instances")}
    for finding in _serious(overview):
        subject, severity = text(finding.get("subject")), text(finding.get("severity"))
        instance = known.get(subject, {})
        status = text(instance.get("status")) if _explains(finding) else ""
        about = _who(instance) if instance else shortened(subject, 40)
        tone = _ILL.get(status, "bad" if severity == "error" else "warn")
        message = ": ".join(part for part in (about, text(finding.get("message"))) if part)
        yield Item(status if status in _ILL else severity or "finding", tone, message, text(finding.get("hint")))


def _conflicts(overview: dict[str, Any]) -> Iterator[Item]:
    """Of those who were admitted: what they change now is worse than what they may change."""
    known = names(overview)
    for one in grave(overview):
        edits = one.get("kind") == "edits"
        ids = (text(one.get(key)) for key in ("instance_id", "other"))
        both = " and ".join(who(one_id, known.get(one_id, "")) for one_id in ids)
        what = "change the same files" if edits else "are in each other's way"
        where = f"{both} {what} on {shortened(text(one.get('branch')), 40)}"
        message = ": ".join(part for part in (where, why(one, known), few(one)) if part)
        tone = "bad" if edits or one.get("severity") == "block" else "warn"
        yield Item("conflict", tone, message, "`mnemosyne branch conflicts`")


def _set_aside(overview: dict[str, Any]) -> Iterator[Item]:
    for key, what in (("dead_lettered", "dead-lettered"), ("refused", "refused")):
        count = number(overview.get(key)) or 0
        if count > 0:
            verb = "was" if count == 1 else "were"
            yield Item("messages", "warn", f"{plural(count, 'message')} {verb} {what}", _SET_ASIDE)


def _late(overview: dict[str, Any]) -> Iterator[Item]:
    for box in items(overview, "mailboxes"):
        oldest = number(box.get("oldest"))
        if oldest is not None and oldest > LATE:
            address = shortened(text(box.get("address")), 40)
            count = number(box.get("waiting")) or 0
            what = f"{plural(count, 'message')} {'waits' if count == 1 else 'wait'}"
            yield Item("mailbox", "warn", f"{address}: {what}, the oldest for {age(oldest)}")
