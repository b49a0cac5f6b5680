"""Metrics: the overview in the text format of Prometheus (version 0.0.4).

Written here because the format is two dozen lines and the client library would take more memory than the whole API: 11 MB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from mnemo_coord.findings import Severity
from mnemo_coord.members.liveness import Verdict

if TYPE_CHECKING:
    from mnemo_coord.overview import Overview

__all__ = ["CONTENT_TYPE", "text"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[dict[str, str], float]


def text(overview: Overview, streams: int) -> str:
    """The whole page. ``streams`` is the number of open event streams."""
    return "".join(line + "\n" for family in _families(overview, streams) for line in family)


def _families(seen: Overview, streams: int) -> Iterator[Iterator[str]]:
    yield _family("build_info", "gauge", "Always 1; the version is a label.", [({"version": seen.version}, 1)])
    yield _family(
        "instances", "gauge", "Registered instances.", _counted("status", [i.status for i in seen.instances], Verdict)
    )
    yield _family(
        "heartbeat_age_seconds",
        "gauge",
        "Seconds since the last heartbeat.",
        [({"instance_id": i.instance_id}, i.heartbeat_age) for i in seen.instances if i.heartbeat_age is not None],
    )
    yield _family(
        "process_resident_bytes",
        "gauge",
        "Resident memory of an instance's process.",
        [({"instance_id": key}, usage.rss) for key, usage in seen.usage.items()],
    )
    yield _family(
        "process_cpu_percent",
        "gauge",
        "Share of one core that an instance's process used lately.",
        [({"instance_id": key}, usage.cpu_percent) for key, usage in seen.usage.items() if usage.cpu_percent is not None],
    )
    boxes = [({"address": box.address}, box) for box in seen.mailboxes]
    yield _family("mailbox_waiting", "gauge", "Messages that wait.", [(label, box.waiting) for label, box in boxes])
    yield _family("mailbox_claimed", "gauge", "Messages in a receiver's hands.", [(label, box.claimed) for label, box in boxes])
    yield _family(
        "mailbox_oldest_seconds",
        "gauge",
        "How long the oldest message has been waiting.",
        [(label, box.oldest or 0) for label, box in boxes],
    )
    aside = [({"where": "dead_letter"}, seen.dead_lettered), ({"where": "quarantine"}, seen.refused)]
    yield _family("messages_set_aside", "gauge", "Messages that were set aside.", aside)
    received = [({"from_agent": flow.from_agent, "to_agent": flow.to_agent}, flow.count) for flow in seen.flows]
    yield _family("messages_received_total", "counter", "Messages that an instance was handed.", received)
    yield _family("claims", "gauge", "Claims that are held.", _counted("kind", [claim.kind for claim in seen.claims]))
    found = _counted("severity", [finding.severity for finding in seen.findings], Severity)
    yield _family("findings", "gauge", "What the doctor found.", found)
    if seen.memory is not None:
        yield _family("memories", "gauge", "Memories in the shared database.", [({}, seen.memory.memories)])
        yield _family("memory_links", "gauge", "Links between them.", [({}, seen.memory.links)])
    yield _family("events_total", "counter", "Events published by this instance.", [({}, seen.last_event_id)])
    yield _family("event_streams", "gauge", "Open event streams of this instance.", [({}, streams)])


def _counted(label: str, values: Iterable[str], known: Iterable[str] = ()) -> list[Sample]:
    counts = Counter(map(str, values))
    return [({label: value}, counts[value]) for value in dict.fromkeys([*map(str, known), *counts])]


def _family(name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP mnemosyne_{name} {meaning}"
    yield f"# TYPE mnemosyne_{name} {kind}"
    for labels, value in samples:
        inner = ",".join(f'{label}="{_escaped(content)}"' for label, content in labels.items())
        yield f"mnemosyne_{name}{{{inner}}} {_number(value)}" if inner else f"mnemosyne_{name} {_number(value)}"


def _escaped(content: str) -> str:
    clean = content.encode(errors="backslashreplace").decode()
    return clean.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(round(value, 6))
