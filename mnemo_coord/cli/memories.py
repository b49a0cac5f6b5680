"""``mnemosyne memories``: the memories as a whole, and the links between them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line, table, talk
from mnemo_coord.cli.remembering import db_path, namespace, opened, show

__all__ = ["command"]


@click.group("memories", invoke_without_command=True)
@db_path
@common
@click.pass_context
def command(ctx: click.Context, shared: Common, *, db_path: str | None) -> int:
    """Show where the database is and how much is in it."""
    ctx.obj = shared
    if ctx.invoked_subcommand is not None:
        return 0
    with opened(shared, db_path) as memories:
        place, count = memories.place, memories.count()
    if shared.as_json:
        document({"path": str(place.path), "source": place.source, "memories": count})
    else:
        line(f"{count} memories in {place.path} ({place.source})")
    return 0


@command.command("list")
@namespace
@click.option("--limit", type=int, default=20, metavar="N", help="How many at most. [20]")
@db_path
@common
def list_(shared: Common, *, namespace: str | None, limit: int, db_path: str | None) -> int:
    """Show the newest memories. Exit 1: there is none."""
    with opened(shared, db_path) as memories:
        found = memories.recall(namespace=namespace, limit=limit)
    if shared.as_json:
        document(found)
    else:
        for memory in found:
            show(memory)
    return 0 if found else 1


@command.command("export")
@click.argument("file", required=False, default="-")
@namespace
@db_path
@common
def export(shared: Common, *, file: str, namespace: str | None, db_path: str | None) -> int:
    """Write all memories and links as lines of JSON, to stdout or a new FILE."""
    with opened(shared, db_path) as memories, _new_file(file) as out:
        count = memories.export(lambda text: out.write(f"{text}\n"), namespace=namespace)
        out.flush()
    talk(f"{count} lines written.")
    return 0


@contextmanager
def _new_file(name: str) -> Iterator[TextIO]:
    if name == "-":
        yield sys.stdout
        return
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise errors.Conflict(f"{name}: there is a file already", hint="give another; nothing is written over") from None
    with os.fdopen(fd, "w", encoding="utf-8") as stream:
        yield stream


@command.command("import")
@click.argument("file", required=False, default="-")
@click.option("--skip-bad", is_flag=True, help="Leave out what is not valid, instead of storing nothing.")
@db_path
@common
def import_(shared: Common, *, file: str, skip_bad: bool, db_path: str | None) -> int:
    """Store what `export` wrote, from stdin or a FILE, under the same ids. What is there already stays as it is.

    Exit 1: some lines were left out.
    """
    with opened(shared, db_path) as memories, _lines(file) as lines:
        done = memories.import_lines(lines, skip_bad=skip_bad)
    if shared.as_json:
        document(done)
    else:
        talk(f"{done.memories} memories and {done.links} links stored, {done.present} were there already.")
        for bad in done.bad:
            line(f"line {bad.line}: {bad.reason}")
    return 1 if done.bad else 0


@contextmanager
def _lines(name: str) -> Iterator[Iterator[str]]:
    # What is no UTF-8 becomes halves of surrogate pairs, which are refused with the number of their line.
    fd = os.dup(sys.stdin.fileno()) if name == "-" else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(fd, encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
        yield iter(stream)


@command.command("backup")
@click.argument("target", metavar="FILE")
@db_path
@common
def backup(shared: Common, *, target: str, db_path: str | None) -> int:
    """Copy the database into a new FILE while it is in use. What is there already is never written over."""
    with opened(shared, db_path) as memories:
        path = memories.backup(target)
    if shared.as_json:
        document({"path": str(path), "size": path.stat().st_size})
    else:
        line(str(path))
    return 0


@command.command("link")
@click.argument("source")
@click.argument("target")
@click.option("--kind", default="related", metavar="KIND", help="How they are related. [related]")
@click.option("--strength", type=float, default=1.0, metavar="N", help="From 0 to 1. [1]")
@db_path
@common
def link(shared: Common, *, source: str, target: str, kind: str, strength: float, db_path: str | None) -> int:
    """Say that one memory, SOURCE, has to do with another, TARGET."""
    with opened(shared, db_path) as memories:
        made = memories.link(source, target, kind, strength=strength)
    if shared.as_json:
        document(made)
    else:
        talk(f"{made.source} is linked to {made.target}: {made.kind}, {made.strength:g}")
    return 0


@command.command("links")
@click.argument("memory_id", metavar="ID")
@db_path
@common
def links(shared: Common, *, memory_id: str, db_path: str | None) -> int:
    """Show the links from and to a memory, the strongest first."""
    with opened(shared, db_path) as memories:
        found = memories.links(memory_id)
    if shared.as_json:
        document(found)
    elif found:
        table(
            ("SOURCE", "TARGET", "KIND", "STRENGTH"), [(one.source, one.target, one.kind, f"{one.strength:g}") for one in found]
        )
    return 0
