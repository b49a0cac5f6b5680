"""``mnemosyne jobs``: the queue of an instance."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.naming import with_name
from mnemo_coord.cli.output import document, line, table, talk
from mnemo_coord.cli.whose import backlog_of, own_instance

if TYPE_CHECKING:
    from mnemo_coord.instances.named import Named
    from mnemo_coord.supervise.backlog import Backlog
    from mnemo_coord.supervise.jobs import Job

__all__ = ["command", "described"]


@click.group("jobs")
def command() -> None:
    """The queue of an instance: commands that `jobs run` works through, so many at once.

    Without a NAME the instance is meant that the shell is in: by the variable of the project, MNEMOSYNE_INSTANCE, or the
    default one.
    """


_name = click.option("--name", metavar="NAME", help="The instance. [the one that the shell is in]")
_ids = click.argument("ids", metavar="[ID]...", nargs=-1)


@command.command("add", context_settings={"allow_interspersed_args": False})
@_name
@click.option("--priority", type=click.IntRange(1, 10), default=5, metavar="N", help="1 to 10; 10 goes first. [5]")
@click.option("--title", default="", metavar="TEXT", help="What people are shown. [the command]")
@click.option("--retries", type=click.IntRange(0, 100), default=0, metavar="N", help="So many tries after the first. [0]")
@click.option("--env", "pairs", metavar="K=V", multiple=True, help="A variable for it. May be given several times.")
@click.argument("argv", metavar="-- COMMAND…", nargs=-1, required=True, type=click.UNPROCESSED)
@common
def add(shared: Common, *, name: str | None, argv: tuple[str, ...], pairs: tuple[str, ...], **wish: Any) -> int:
    """Put COMMAND into the queue of an instance, to be run in the current folder, and print the id of the job.

    Of one priority the first that was added goes first. It is run by `mnemosyne jobs run`, now or later; what it prints stands
    in the logs of the instance.
    """
    from mnemo_coord.supervise import orders

    env = dict(pair.partition("=")[::2] for pair in pairs)
    if not all("=" in pair for pair in pairs):
        raise click.UsageError("--env is NAME=VALUE.")
    wanted = orders.Wish(argv=argv, folder=os.getcwd(), env=env, **wish)
    wanted.check()
    backlog = _made(name)
    job = orders.add(backlog, wanted)
    if shared.as_json:
        document(described(backlog, job))
        return 0
    line(job.id)
    if backlog.runner() is None:
        talk(f"nobody works the queue of {backlog.name}: `mnemosyne jobs run {backlog.name}` does")
    return 0


def _made(name: str | None) -> Backlog:
    """The queue of an instance, in a workspace that is there."""
    return backlog_of(made_instance(name))


def made_instance(name: str | None) -> Named:
    """The instance that is meant, with its workspace made where it is missing.

    Raises:
        errors.CoordinationError: see `mnemo_coord.cli.here.instance_here`.
    """
    from mnemo_coord.cli.here import instance_here

    named = instance_here(own_instance(name)[1].name).named
    if named is None:
        raise AssertionError("an instance that is asked for by its name has one")
    return named


@command.command("list")
@with_name(required=False)
@common
def list_(shared: Common, *, name: str | None) -> int:
    """Show the jobs of an instance: what runs, what is next, and the last that have ended."""
    from mnemo_coord.supervise import orders
    from mnemo_coord.supervise.jobs import shown

    backlog = backlog_of(own_instance(name)[1])
    queue = orders.view(backlog)
    jobs = [described(backlog, job) for job in shown(queue.jobs)]
    runner = backlog.runner()
    if shared.as_json:
        document({"instance": backlog.name, "runner": runner or None, "paused": queue.paused, "jobs": jobs})
        return 0
    worked = f"worked by process {runner}" if runner else "worked by nobody" if runner is None else "worked"
    talk(f"The queue of {backlog.name} is {worked}{', and paused' if queue.paused else ''}.")
    if jobs:
        header = ("INSTANCE", "JOB", "STATUS", "PRIORITY", "TRIES", "PID", "TITLE")
        table(header, [_row(job) for job in jobs])
    return 0


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    tries = f"{job['tries']}/{job['retries'] + 1}"
    title = job["title"] + (f"  ({job['text']})" if job["text"] else "")
    return job["instance"], job["id"], job["status"], str(job["priority"]), tries, str(job["pid"] or "-"), title


def described(backlog: Backlog, job: Job) -> dict[str, Any]:
    """A job for --json. Its variables are not in it: they may be secrets."""
    from mnemo_coord.supervise.inventory import command_of

    process = command_of(job, backlog.processes(job)) if job.status.counts else None
    return {
        "id": job.id,
        "instance": backlog.name,
        "status": job.status,
        "priority": job.priority,
        "title": job.title or shlex.join(job.argv),
        "command": list(job.argv),
        "folder": job.folder,
        "tries": job.tries,
        "retries": job.retries,
        "pid": process.pid if process else None,
        "exit_code": job.exit_code,
        "text": job.text,
        "added_at": job.added_at,
        "started_at": job.started_at or None,
        "ended_at": job.ended_at or None,
        "log": str(backlog.log(job.id)),
    }


@command.command("run")
@with_name(required=False)
@click.option("--limit", type=click.IntRange(1, 1000), metavar="N", help="So many run at once. [4, or jobs.limit]")
@click.option("--drain", is_flag=True, help="End when nothing is left; exit 7 when a job has failed.")
@click.option("--adopt", is_flag=True, help="Take over what a runner that was killed has left running.")
@common
def run(shared: Common, *, name: str | None, limit: int | None, drain: bool, adopt: bool) -> int:
    """Work through the queue of an instance, in the foreground, until Ctrl-C; jobs that are added are seen at once.

    Ctrl-C ends the jobs that run; they wait for the next `jobs run`, and this try does not count. Whatever is killed, and when:
    the next run goes on with what there was, each job once. What then still runs of a job is an orphan: it counts against the
    limit, and `jobs adopt` or `jobs clean` decides about it.
    """
    from mnemo_coord.cli.working import work

    return work(shared, name, limit=limit, drain=drain, adopt=adopt)


@command.command("cancel")
@_name
@click.argument("job", metavar="ID")
@common
def cancel(shared: Common, *, name: str | None, job: str) -> int:
    """Take a job off the queue; if it runs, end it, to its last process."""
    from mnemo_coord.supervise import orders

    instances, named = own_instance(name)
    backlog = backlog_of(named)
    return _tell(shared, backlog, [orders.cancel(backlog, job, instances.project.jobs.grace)], one=True)


@command.command("pause")
@with_name(required=False)
@common
def pause(shared: Common, *, name: str | None) -> int:
    """Start no job of an instance any more, until `jobs resume`. What runs goes on."""
    return _set_paused(shared, name, paused=True)


@command.command("resume")
@with_name(required=False)
@common
def resume(shared: Common, *, name: str | None) -> int:
    """Start the jobs of an instance again."""
    return _set_paused(shared, name, paused=False)


def _set_paused(shared: Common, name: str | None, *, paused: bool) -> int:
    from mnemo_coord.supervise import orders

    backlog = _made(name)
    orders.pause(backlog, paused=paused)
    if shared.as_json:
        document({"instance": backlog.name, "paused": paused})
    else:
        talk(f"The queue of {backlog.name} is {'paused' if paused else 'not paused'}.")
    return 0


@command.command("adopt")
@_name
@_ids
@common
def adopt(shared: Common, *, name: str | None, ids: tuple[str, ...]) -> int:
    """Have orphans, by default all, taken over by who works the queue, now or next: they are running jobs again."""
    from mnemo_coord.supervise import orders

    backlog = backlog_of(own_instance(name)[1])
    return _tell(shared, backlog, orders.adopt(backlog, ids))


@command.command("clean")
@_name
@click.option("--drop", is_flag=True, help="Cancel them instead.")
@_ids
@common
def clean(shared: Common, *, name: str | None, drop: bool, ids: tuple[str, ...]) -> int:
    """End orphans, by default all, to their last process, and have them wait to be started again."""
    from mnemo_coord.supervise import orders

    instances, named = own_instance(name)
    backlog = backlog_of(named)
    return _tell(shared, backlog, orders.clean(backlog, ids, instances.project.jobs.grace, drop=drop))


def _tell(shared: Common, backlog: Backlog, jobs: Iterable[Job], *, one: bool = False) -> int:
    known = [described(backlog, job) for job in jobs]
    if shared.as_json:
        document(known[0] if one else known)
        return 0
    for job in known:
        line(f"{job['instance']}/{job['id']}: {job['status']}{': ' if job['text'] else ''}{job['text']}")
    if not known:
        talk(f"There are no orphans in the queue of {backlog.name}.")
    return 0


@command.command("migrate")
@_name
@click.option("--runner", metavar="CMD", help="Run each script with it. [npm run]")
@click.argument("file", type=click.Path(path_type=Path))
@common
def migrate(shared: Common, *, name: str | None, runner: str | None, file: Path) -> int:
    """Take the entries of a queue-state.json of Murmuration over into the queue of one instance, once.

    The command of an entry is `npm run SCRIPT -- ARGS`, or CMD with SCRIPT and ARGS behind it, run at the root of the project.
    What was running waits to be started again. The file becomes FILE.migrated; one that cannot be understood FILE.corrupt-1.
    """
    from mnemo_coord.supervise import legacy

    words = legacy.NPM if runner is None else _words(runner)
    root = own_instance(name)[0].project.root
    backlog = _made(name)
    done = legacy.migrate(file.absolute(), backlog, root, words)
    if shared.as_json:
        jobs = [described(backlog, job) for job in done.jobs]
        document({"instance": backlog.name, "backup": str(done.backup), "jobs": jobs})
        return 0
    for job in done.jobs:
        line(f"{backlog.name}/{job.id}: {job.status}: {shlex.join(job.argv)}")
    talk(f"{len(done.jobs)} jobs are in the queue of {backlog.name}; the file is {done.backup} now")
    return 0


def _words(runner: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(runner))
    except ValueError as error:
        raise click.UsageError(f"--runner: {error}.") from None
    if not words:
        raise click.UsageError("--runner is empty.")
    return words
