"""What stands in the tables: instance, mailbox and finding to cells, as values without a look."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from mnemo_coord.dash.branches import close, few, how, of_instances, summary
from mnemo_coord.dash.reading import items, member, number, text
from mnemo_coord.dash.wording import NOTHING, age, lasted, megabytes, named, names, shortened

__all__ = [
    "BRANCHES",
    "FINDINGS",
    "INSTANCES",
    "MAILBOXES",
    "MEMORIES",
    "STATUSES",
    "Cell",
    "Column",
    "Rows",
    "branches",
    "findings",
    "instances",
    "mailboxes",
    "memories",
    "memories_there_are",
]


class Cell(NamedTuple):
    """Text that is safe to show, and how it is meant: ``good``, ``warn``, ``bad``, ``dim`` or plain."""

    text: str
    tone: str = ""


class Column(NamedTuple):
    """A column of a table."""

    label: str
    right: bool = False
    """Whether it is aligned to the right."""


Rows = dict[str, tuple[Cell, ...]]
"""Cells by the key of their row, in order."""

INSTANCES: Final = (
    Column("Status"),
    Column("Name"),
    Column("Id"),
    Column("Beat", right=True),
    Column("Says"),
    Column("CPU", right=True),
    Column("Memory", right=True),
    Column("Port", right=True),
    Column("Branch"),
    Column("Waiting", right=True),
)
MEMORIES: Final = (Column("Memory"), Column("Namespace"), Column("By"), Column("Importance", right=True))
MAILBOXES: Final = (
    Column("Mailbox"),
    Column("Name"),
    Column("Waiting", right=True),
    Column("Claimed", right=True),
    Column("Expired", right=True),
    Column("Oldest", right=True),
)
FINDINGS: Final = (Column("Severity"), Column("Subject"), Column("What was found"), Column("What to do"), Column("Code"))
BRANCHES: Final = (
    Column("Branch"),
    Column("Who"),
    Column("Works"),
    Column("For", right=True),
    Column("Close to"),
    Column("Files"),
)

STATUSES: Final = {"alive": "good", "stalled": "warn", "paused": "warn", "dead": "bad", "untrusted": "bad", "foreign": "dim"}
"""Every status, from well to ill, and its tone."""

LATE: Final = 60.0
"""Seconds after which a message has waited for long."""

_STATES: Final = {"working": "good", "waiting": "warn", "stuck": "bad"}
_SEVERITIES: Final = {"error": "bad", "warning": "warn", "notice": "dim"}
_SAYS_WIDTH: Final = 44
_ABSENT: Final = Cell(NOTHING, "dim")


def instances(overview: dict[str, Any]) -> Rows:
    """A row for each instance, by its id."""
    usage = {text(key): value for key, value in member(overview, "usage").items()}
    waiting, work = _waiting(overview), of_instances(overview)
    rows: Rows = {}
    for item in items(overview, "instances"):
        key = text(item.get("instance_id"))
        if key:
            rows[key] = _instance(item, usage.get(key), waiting, summary(work.get(key, [])))
    return rows


def _instance(item: dict[str, Any], usage: Any, waiting: dict[str, float], work: str) -> tuple[Cell, ...]:
    key, name, status = (text(item.get(part)) for part in ("instance_id", "name", "status"))
    used = usage if isinstance(usage, dict) else {}
    return (
        Cell(status or "?", STATUSES.get(status, "")),
        _or_absent(shortened(name)),
        Cell(key),
        _or_absent(age(item.get("heartbeat_age"))),
        _says(member(item, "report")),
        _or_absent(_percent(used.get("cpu_percent"))),
        _or_absent(megabytes(used.get("rss"))),
        _or_absent(_port(text(item.get("api_url")))),
        _or_absent(work or shortened(text(item.get("branch")), 24)),
        _count(sum(waiting.get(address, 0) for address in {key, name} - {""})),
    )


def _says(report: dict[str, Any]) -> Cell:
    state, more = text(report.get("state")), text(report.get("text"))
    both = ": ".join(part for part in (state, more) if part)
    return Cell(shortened(both, _SAYS_WIDTH), _STATES.get(state, "")) if both else _ABSENT


def _percent(value: Any) -> str:
    found = number(value)
    return NOTHING if found is None else f"{found:.0f}%"


def _port(url: str) -> str:
    try:
        return str(urlsplit(url).port or NOTHING)
    except ValueError:
        return NOTHING


def _or_absent(value: str) -> Cell:
    return Cell(value) if value and value != NOTHING else _ABSENT


def _warning(value: str) -> Cell:
    return Cell(value, "warn") if value else _ABSENT


def _count(value: Any) -> Cell:
    found = number(value)
    if found is None:
        return _ABSENT
    return Cell(str(int(found)), "" if found else "dim")


def _waiting(overview: dict[str, Any]) -> dict[str, float]:
    return {text(box.get("address")): number(box.get("waiting")) or 0 for box in items(overview, "mailboxes")}


def mailboxes(overview: dict[str, Any]) -> Rows:
    """A row for each mailbox, by its address."""
    names = {text(item.get("instance_id")): text(item.get("name")) for item in items(overview, "instances")}
    rows: Rows = {}
    for box in items(overview, "mailboxes"):
        address = text(box.get("address"))
        counts = (_count(box.get(part)) for part in ("waiting", "claimed", "expired"))
        late = (number(box.get("oldest")) or 0) > LATE
        oldest = Cell(f"{age(box.get('oldest'))}{' late' if late else ''}", "warn" if late else "")
        known = _or_absent(shortened(names.get(address, "")))
        rows[address] = (Cell(shortened(address, 32)), known, *counts, oldest if oldest.text != NOTHING else _ABSENT)
    return rows


def branches(overview: dict[str, Any]) -> Rows:
    """A row for each assignment, by its branch and instance."""
    known, near = names(overview), close(overview)
    rows: Rows = {}
    for one in items(overview, "branches"):
        branch, instance_id = text(one.get("branch")), text(one.get("instance_id"))
        rows[f"{branch} {instance_id}"] = (
            _or_absent(shortened(branch, 32)),
            Cell(named(instance_id, known)),
            Cell(how(one)),
            _or_absent(lasted(one.get("since"), overview.get("at"))),
            _warning(shortened(", ".join(near.get((branch, instance_id), [])), 40)),
            _or_absent(few(one)),
        )
    return rows


def memories(overview: dict[str, Any]) -> Rows:
    """A row for each of the newest memories, by its id; none where there is no database."""
    rows: Rows = {}
    for one in items(member(overview, "memory"), "recent"):
        importance = number(one.get("importance"))
        rows[text(one.get("id"))] = (
            _or_absent(shortened(text(one.get("content")), 80)),
            _or_absent(shortened(text(one.get("namespace")), 32)),
            _or_absent(shortened(text(one.get("author_name")) or text(one.get("author_id")), 24)),
            _or_absent("" if importance is None else f"{importance:.0f}"),
        )
    return rows


def memories_there_are(overview: dict[str, Any]) -> int:
    """How many there are, of which the table has the newest."""
    return int(number(member(overview, "memory").get("memories")) or 0)


def findings(overview: dict[str, Any]) -> Rows:
    """A row for each finding, by its code and subject."""
    rows: Rows = {}
    for found in items(overview, "findings"):
        severity, subject, message, hint, code = (
            text(found.get(part)) for part in ("severity", "subject", "message", "hint", "code")
        )
        shown = f"{severity}, fixed" if found.get("fixed") is True else severity
        tone = "dim" if found.get("fixed") is True else _SEVERITIES.get(severity, "")
        rows[f"{code} {subject} {message}"] = (
            Cell(shown or "?", tone),
            _or_absent(shortened(subject, 32)),
            _or_absent(message),
            _or_absent(hint),
            _or_absent(code),
        )
    return rows
