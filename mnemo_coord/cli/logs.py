"""``mnemosyne logs``: what the services and jobs of an instance have printed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.naming import one_name
from mnemo_coord.cli.output import document, line
from mnemo_coord.cli.stop import named_instance

if TYPE_CHECKING:
    from mnemo_coord.instances.named import Named

__all__ = ["command"]

_LOOK: Final = 0.1
"""Seconds between two looks while following."""


@click.command("logs")
@click.option("--name", "option", metavar="NAME", help="The instance; the same as NAME.")
@click.option("-f", "--follow", is_flag=True, help="Go on as long as more comes.")
@click.option("-n", "--lines", "count", type=click.IntRange(min=0), default=200, metavar="N", help="So many at most. [200]")
@click.argument("name", required=False)
@click.argument("service", required=False)
@common
def command(shared: Common, *, name: str | None, service: str | None, option: str | None, follow: bool, count: int) -> int:
    """Print what the services of an instance have printed, oldest first: time, instance and service, and the line.

    Instead of SERVICE it can be the id of a job. With --json one document a line.
    """
    if option is not None and name is not None and service is None:
        name, service = None, name
    name = one_name(name, option)
    if name is None:
        raise click.UsageError("Which instance? Give its NAME; `mnemosyne instances` shows them.")
    named = named_instance(name)
    files = [_Log(path) for path in _paths(named, service)]
    found = sorted(text for log in files for text in [*log.older(), *log.more()])
    for text in found[max(0, len(found) - count) :]:
        _show(text, as_json=shared.as_json)
    while follow:
        time.sleep(_LOOK)
        for text in sorted(text for log in files for text in log.more()):
            _show(text, as_json=shared.as_json)
    return 0


def _paths(named: Named, service: str | None) -> list[Path]:
    from mnemo_coord.supervise.backlog import ID, Backlog

    if service is not None and service not in named.ports:
        job = Backlog(named.name, named.workspace).log(service) if ID.fullmatch(service) else None
        if job is not None and job.exists():
            return [job]
        hint = f"known are {', '.join(named.ports)}, and the jobs that were run"
        raise errors.NotFound(f"{named.name} has no service or job {service!r}", hint=hint)
    return [named.workspace / "logs" / f"{one}.log" for one in named.ports if service in {None, one}]


def _show(text: str, *, as_json: bool) -> None:
    if as_json:
        head, _, said = text.partition(" | ")
        at, _, who = head.partition(" ")
        document({"at": at, "service": who.rpartition("/")[2], "line": said})
    else:
        line(text)


class _Log:
    """One log file, read on from where it was read to, across its rotation."""

    def __init__(self, path: Path) -> None:
        self._path, self._inode, self._at, self._rest = path, 0, 0, b""

    def older(self) -> Iterator[str]:
        """The lines of the files that were rotated away."""
        for number in (2, 1):
            with suppress(OSError):
                yield from self._path.with_suffix(f".{number}.log").read_text(errors="replace").splitlines()

    def more(self) -> Iterator[str]:
        """The whole lines that have come since the last time."""
        with suppress(OSError):
            status = self._path.stat()
            if status.st_ino != self._inode or status.st_size < self._at:
                if self._inode:
                    yield from self._read(self._path.with_suffix(".1.log"))  # what came just before it was rotated
                self._inode, self._at = status.st_ino, 0
            yield from self._read(self._path)

    def _read(self, path: Path) -> Iterator[str]:
        with path.open("rb") as stream:
            stream.seek(self._at)
            data = self._rest + stream.read()
            self._at = stream.tell()
        *whole, self._rest = data.split(b"\n")
        yield from (text.decode(errors="replace") for text in whole)
