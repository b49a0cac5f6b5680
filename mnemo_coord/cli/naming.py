"""The name of an instance on the command line: NAME, or ``--name NAME``, wherever a command is about one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

__all__ = ["one_name", "with_name"]


def with_name(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds NAME and ``--name`` to a command, and passes whichever is there as ``name``; None where neither is."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @click.option("--name", "flagged", metavar="NAME", help="The same as NAME.")
        @click.argument("called", required=False, metavar="NAME")
        @wraps(function)
        def wrapped(*args: Any, called: str | None, flagged: str | None, **options: Any) -> Any:
            name = one_name(called, flagged)
            if name is None and required:
                raise click.UsageError("Which instance? Give its NAME; `mnemosyne instances` shows them.")
            return function(*args, name=name, **options)

        return wrapped

    return decorate


def one_name(called: str | None, flagged: str | None) -> str | None:
    """The one name that was given.

    Raises:
        click.UsageError: there are two, or it is empty.
    """
    if called is not None and flagged is not None and called != flagged:
        raise click.UsageError(f"One name is enough: {called!r} or --name {flagged!r}?")
    name = called if called is not None else flagged
    if name == "":
        raise click.UsageError("The name is empty.")
    return name
