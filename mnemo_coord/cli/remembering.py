"""What the commands about memories share: the options, the database, and how a memory is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from mnemo_coord.cli.output import line

if TYPE_CHECKING:
    from mnemo_coord.cli.commands import Common
    from mnemo_coord.memory.memories import Memories
    from mnemo_coord.memory.memory import Memory

__all__ = ["db_path", "namespace", "opened", "show"]

_SHOWN: Final = 400
"""Characters of a content on a line of a person's screen; --json has all of it."""

db_path: Callable[[Any], Any] = click.option("--db-path", metavar="PATH", help="The database. [see Shared memories]")
namespace: Callable[[Any], Any] = click.option(
    "-n", "--namespace", metavar="NAMESPACE", help="global, project:NAME or session:PROJECT:ID."
)


def opened(shared: Common, path: str | None, name: str | None = None) -> Memories:
    """The database that a command is about."""
    from mnemo_coord.memory.memories import Memories

    return Memories.open(path, state_dir=shared.dir, name=name)


def show(memory: Memory) -> None:
    """Prints a memory: a line about it, and what it says."""
    who = memory.author_name or memory.author_id
    tags = " ".join(f"#{tag}" for tag in memory.tags)
    about = (
        memory.id,
        memory.namespace,
        f"importance {memory.importance}",
        tags,
        f"by {who}" if who else "",
        memory.created_at,
    )
    line("  ".join(filter(None, about)))
    text = memory.content if len(memory.content) <= _SHOWN else f"{memory.content[:_SHOWN]}…"
    for each in text.split("\n"):
        line(f"    {each}")
    if memory.context:
        line(f"    context: {memory.context[:_SHOWN]}")
