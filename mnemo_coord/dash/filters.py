"""What is shown and what is not: words, one instance, one kind of event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mnemo_coord.dash.branches import of_instances
from mnemo_coord.dash.reading import items, member, text
from mnemo_coord.dash.sentences import Entry
from mnemo_coord.dash.wording import who

__all__ = ["Filter", "after"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """What somebody wants to see. Empty parts let everything pass."""

    words: str = ""
    """All of them must occur, in any order and case."""
    instance: str = ""
    """The id of the instance whose events are shown."""
    kind: str = ""
    """The kind of event that is shown."""

    def instances(self, overview: dict[str, Any]) -> set[str]:
        """The ids of the instances that are shown."""
        work = of_instances(overview)
        known = ((text(item.get("instance_id")), item) for item in items(overview, "instances"))
        return {key for key, item in known if self._has([*_described(item), *_branches(work.get(key, []))])}

    def passes(self, entry: Entry) -> bool:
        """Whether this line of the event log is shown."""
        if entry.kind == "gap":
            return True  # what is missing may be what is looked for
        if self.instance and self.instance not in entry.about:
            return False
        return self.kind in {"", entry.kind} and self._has([entry.kind, entry.text, *entry.about])

    def title(self, known: dict[str, str]) -> str:
        """What it lets pass, in words; empty for everything."""
        parts = (
            f"of {who(self.instance, known.get(self.instance, ''))}" if self.instance else "",
            f"only {self.kind}" if self.kind else "",
            f"with {text(self.words)}" if self.words.strip() else "",
        )
        return ", ".join(part for part in parts if part)

    def _has(self, described: Sequence[str]) -> bool:
        all_of_it = "\n".join(described).casefold()
        return all(word in all_of_it for word in self.words.casefold().split())


def _described(instance: dict[str, Any]) -> list[str]:
    report, roles = member(instance, "report"), instance.get("roles")
    said = [instance.get(key) for key in ("instance_id", "name", "status", "branch")]
    listed = roles if isinstance(roles, list) else []
    return [text(value) for value in (*said, report.get("state"), report.get("text"), *listed)]


def _branches(work: list[dict[str, Any]]) -> list[str]:
    return [text(one.get("branch")) for one in work]


def after(current: str, choices: Sequence[str]) -> str:
    """The choice that follows ``current``; nothing after the last one, the first after nothing."""
    if current not in choices:
        return next(iter(choices), "")
    place = choices.index(current) + 1
    return choices[place] if place < len(choices) else ""
