"""``mnemosyne remember``: stores what all instances are to know."""

from __future__ import annotations

import sys
from typing import Any

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line
from mnemo_coord.cli.remembering import db_path, namespace, opened

__all__ = ["command"]


@click.command("remember")
@click.option("-c", "--content", metavar="TEXT", required=True, help="What to remember; - reads it from stdin.")
@namespace
@click.option("--importance", type=int, metavar="N", help="From 1 to 10. [5]")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="May be given several times.")
@click.option("--context", metavar="TEXT", default="", help="Where it comes from, or when it holds.")
@click.option("--from", "name", metavar="NAME", envvar="MNEMOSYNE_INSTANCE", help="Who writes it.")
@db_path
@common
def command(
    shared: Common,
    *,
    content: str,
    namespace: str | None,
    importance: int | None,
    tags: tuple[str, ...],
    context: str,
    name: str | None,
    db_path: str | None,
) -> int:
    """Store a memory, and print its id.

    It goes into the database that all instances share; `mnemosyne recall` finds it.
    """
    chosen: dict[str, Any] = {"namespace": namespace, "importance": importance}
    given = {key: value for key, value in chosen.items() if value is not None}
    text = _stdin() if content == "-" else content
    with opened(shared, db_path, name or None) as memories:
        stored = memories.store(text, tags=tags, context=context, **given)
    if shared.as_json:
        document(stored)
    else:
        line(stored.id)
    return 0


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read(1024 * 1024).decode().rstrip("\n")
    except UnicodeDecodeError:
        raise errors.Config("what came in is no UTF-8", key="content") from None
