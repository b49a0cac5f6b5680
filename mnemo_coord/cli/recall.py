"""``mnemosyne recall``: finds what is known."""

from __future__ import annotations

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, talk
from mnemo_coord.cli.remembering import db_path, namespace, opened, show

__all__ = ["command"]


@click.command("recall")
@click.option("-q", "--query", metavar="TEXT", help="Any words. Without it the newest are shown.")
@namespace
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Only with this tag; may be given several times.")
@click.option("--min-importance", type=int, default=1, metavar="N", help="Only of at least this importance. [1]")
@click.option("--author", metavar="WHO", help="Only of this one: an id or a name.")
@click.option("--limit", type=int, default=20, metavar="N", help="How many at most. [20]")
@db_path
@common
def command(
    shared: Common,
    *,
    query: str | None,
    namespace: str | None,
    tags: tuple[str, ...],
    min_importance: int,
    author: str | None,
    limit: int,
    db_path: str | None,
) -> int:
    """Show memories that fit the words of a query, the best first. Exit 1: there is none.

    Nothing in a query has a special meaning. All filters apply before the limit.
    """
    with opened(shared, db_path) as memories:
        found = memories.recall(
            query, namespace=namespace, tags=tags, min_importance=min_importance, author=author, limit=limit
        )
    if shared.as_json:
        document(found)
    else:
        for memory in found:
            show(memory)
        if not found:
            talk("Nothing is known about that.")
    return 0 if found else 1
