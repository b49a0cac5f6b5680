"""``mnemosyne jobs run``: works the queue of an instance."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from mnemo_coord.cli.output import document, talk
from mnemo_coord.cli.whose import backlog_of, own_instance, told_of_itself

if TYPE_CHECKING:
    from mnemo_coord.cli.commands import Common
    from mnemo_coord.cli.here import Here
    from mnemo_coord.instances.named import Named
    from mnemo_coord.supervise.backlog import Backlog
    from mnemo_coord.supervise.jobs import Job, Queue

__all__ = ["work"]


def work(shared: Common, name: str | None, *, limit: int | None, drain: bool, adopt: bool) -> int:
    """Works it until it is asked to end; with ``drain`` until nothing is left, 7 when a job has failed."""
    from mnemo_coord.cli.here import instance_here
    from mnemo_coord.supervise.runner import Runner, Work

    here = instance_here(own_instance(name)[1].name)
    named = here.named
    if named is None:
        raise AssertionError("an instance that is asked for by its name has one")
    _require_trust(here, named)
    rules, backlog = here.project.jobs, backlog_of(named)
    wanted = Work(
        environ=_environ(shared, here, named), limit=limit or rules.limit, grace=rules.grace, drain=drain, adopt=adopt
    )
    runner = Runner(backlog, wanted, lambda job: _tell(backlog, job), lambda text: _say(f"mnemosyne: {text}"))
    tally = runner.run(lambda queue: _ready(backlog, queue, wanted.limit))
    if shared.as_json:
        document({"instance": named.name, "done": tally.done, "failed": tally.failed, "cancelled": tally.cancelled})
    else:
        _say(f"{named.name}: {tally.done} done, {tally.failed} failed, {tally.cancelled} cancelled")
    return 7 if drain and tally.failed else 0


def _require_trust(here: Here, named: Named) -> None:
    """A workspace inside of a checkout may have come with it, and a queue with commands in it."""
    from mnemo_coord.instances.trust import Trust

    if named.workspace.is_relative_to(here.project.root):
        Trust().require(here.project, f"the workspace of {named.name} is in it, and no job of it is started")


def _environ(shared: Common, here: Here, named: Named) -> dict[str, str]:
    own = told_of_itself(here.project, named)
    if shared.dir:
        own["MNEMOSYNE_DIR"] = os.path.abspath(shared.dir)
    found = {**here.surroundings, **here.variables(), **own}
    return {variable: value for variable, value in found.items() if value or variable not in own}


def _say(text: str) -> None:
    """Whoever read it may be gone, or the disk full: no reason to leave the jobs alone."""
    with suppress(OSError):
        talk(text)


def _ready(backlog: Backlog, queue: Queue, limit: int) -> None:
    waiting = sum(not job.status.is_final for job in queue.jobs)
    paused = ", paused" if queue.paused else ""
    _say(f"{backlog.name}: works its queue: {waiting} to do, {limit} at once{paused} (PID {os.getpid()})")


def _tell(backlog: Backlog, job: Job) -> None:
    more = f": {job.text}" if job.text else f": {job.title}" if job.title and not job.status.is_final else ""
    _say(f"{backlog.name}/{job.id}: {job.status}{more}")
    if job.status == "orphaned":
        _say(f"{backlog.name}/{job.id}: runs on; `mnemosyne jobs adopt` takes it over, `mnemosyne jobs clean` ends it")
