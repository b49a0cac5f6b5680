"""``mnemosyne start``: runs the services of an instance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.here import Enabling, instance_here, take_singletons
from mnemo_coord.cli.output import document, line, talk
from mnemo_coord.cli.progress import Progress

if TYPE_CHECKING:
    from mnemo_coord.cli.here import Here
    from mnemo_coord.instances.named import Named
    from mnemo_coord.instances.project import Project
    from mnemo_coord.instances.services import Service
    from mnemo_coord.supervise.background import Launcher
    from mnemo_coord.supervise.launch import Launch
    from mnemo_coord.supervise.service_manager import ServiceManager
    from mnemo_coord.supervise.states import State
    from mnemo_coord.supervise.tenure import ServiceRecord, Tenure

__all__ = ["command", "start"]


@click.command("start", cls=Enabling)
@click.option("--name", "name", metavar="NAME", help="The instance; the same as NAME.")
@click.option("-d", "--detach", is_flag=True, help="Return when it is ready; it goes on in the background.")
@click.option("--enable", "wanted", metavar="SINGLETON", multiple=True, help="Ask for a singleton; also --enable-SINGLETON.")
@click.option("--launched", is_flag=True, hidden=True)
@click.argument("words", nargs=-1, metavar="[NAME] [GROUP]")
@common
def command(shared: Common, *, name: str | None, words: tuple[str, ...], **options: Any) -> int:
    """Run the services of an instance, all or those of one group, and wait until they are ready. Ctrl-C ends all of them.

    Without NAME it is the default instance. The services and their commands stand in mnemosyne.yaml, which has to be trusted.
    Exit 5 when something is not ready in time, 7 when a service cannot be kept running.
    """
    if name is None and words:
        name, *rest = words
    else:
        rest = list(words)
    if len(rest) > 1 or name == "":
        raise click.UsageError("One NAME and one GROUP at most.")
    return start(shared, name, rest[0] if rest else None, options)


def start(shared: Common, name: str | None, group: str | None, options: Mapping[str, Any]) -> int:
    """Starts an instance in the foreground, or in the background and waits for it."""
    from mnemo_coord.instances.named import DEFAULT
    from mnemo_coord.instances.project import FILE
    from mnemo_coord.instances.trust import Trust
    from mnemo_coord.supervise.service_manager import ServiceManager

    manager = ServiceManager.taken_from(os.environ)
    here = instance_here(name or DEFAULT)
    services = chosen(here.project, group)
    Trust().require(here.project, f"no service of {here.project.name} is started")
    named = here.named
    if named is None:
        raise AssertionError("an instance that is asked for by its name has one")
    if not services:
        where = here.project.root / FILE
        raise errors.Config(f"{where}: no service has a command", hint="services.NAME.command", key="services")
    if options["detach"]:
        return _in_the_background(shared, named, group, options)
    return _here(shared, here, named, services, options, manager)


def chosen(project: Project, group: str | None) -> list[Service]:
    """The services of a group that have a command, or all that have one.

    Raises:
        errors.NotFound: there is no such group.
    """
    found = [one for one in project.services if one.command and group in {None, one.group}]
    if group is not None and not found:
        known = ", ".join(dict.fromkeys(one.group for one in project.services if one.group)) or "none"
        raise errors.NotFound(f"{project.name} has no group {group!r}", hint=f"known are {known}", group=group)
    return found


def _here(
    shared: Common,
    here: Here,
    named: Named,
    services: Sequence[Service],
    options: Mapping[str, Any],
    manager: ServiceManager,
) -> int:
    from mnemo_coord.coordinator import Coordinator
    from mnemo_coord.supervise.launch import entered, launch
    from mnemo_coord.supervise.states import State

    with Progress(quiet=options["launched"]) as progress, ExitStack() as stack:
        try:
            lock = stack.enter_context(entered(named.name, named.workspace))
        except errors.Conflict as error:
            if shared.as_json or "in progress" not in error.message:
                raise
            for text in (f"ERROR: {error.message}", error.hint):
                talk(f"[mnemosyne] {text}")
            return error.exit_code
        me = stack.enter_context(Coordinator(shared.dir, name=None if named.is_default else named.name))
        held = take_singletons(here, options["wanted"], me.instance_id, stack)
        own = {"MNEMOSYNE_DIR": str(me.fleet.state.path), "MNEMOSYNE_INSTANCE": me.name or me.instance_id}
        environ = {**here.surroundings, **here.variables(held), **own}

        def tell(service: str, state: State, text: str) -> None:
            where = f" http://127.0.0.1:{named.ports[service]} ({progress.seconds()})" if state is State.READY else ""
            waits = state in {State.STARTING, State.BACKOFF}
            progress.tell(service, f"{state}{where}{': ' if text else ''}{text}", waits=waits)
            manager.heard(service, state, text)

        def settled(all_ready: bool) -> None:
            lock.close()
            progress.settle()
            if not options["launched"]:
                _summary(named, all_ready=all_ready, as_json=shared.as_json)

        what = _launch(here, named, services, environ, detached=options["launched"])
        well = launch(what, tell, settled, look=manager.look)
    return 0 if well else 7


def _launch(here: Here, named: Named, services: Sequence[Service], environ: Mapping[str, str], *, detached: bool) -> Launch:
    from mnemo_coord.supervise.launch import Launch, plan
    from mnemo_coord.supervise.spawn import Output

    logs = named.workspace / "logs"
    plans = [
        plan(
            one,
            one.command,
            environ,
            named.ports,
            here.project.root,
            Output(logs / f"{one.name}.log", f"{named.name}/{one.name}"),
        )
        for one in services
    ]
    return Launch(name=named.name, workspace=named.workspace, plans=plans, detached=detached)


def _summary(named: Named, *, all_ready: bool, as_json: bool) -> None:
    from mnemo_coord.supervise.tenure import look

    known = look(named.workspace)
    if as_json:
        document(described(named, known))
        return
    for service, record in known.services.items():
        line(f"{service}: {record.state} http://127.0.0.1:{record.port}{': ' if record.text else ''}{record.text}")
    talk(f"{named.name} is {'ready' if all_ready else 'not ready'} (PID {known.pid})")


def described(named: Named, known: Tenure) -> dict[str, Any]:
    """An instance and its services for --json."""
    services = {service: _service(record) for service, record in known.services.items()}
    return {
        "name": named.name,
        "status": known.status,
        "pid": known.pid,
        "workspace": str(named.workspace),
        "since": known.since or None,
        "services": services,
    }


def _service(record: ServiceRecord) -> dict[str, Any]:
    url = f"http://127.0.0.1:{record.port}"
    return {"state": record.state, "pid": record.pid, "port": record.port, "url": url, "text": record.text}


def _in_the_background(shared: Common, named: Named, group: str | None, options: Mapping[str, Any]) -> int:
    from mnemo_coord.supervise.background import Launcher

    words = [*(["--dir", shared.dir] if shared.dir else []), "start", "--launched", "--name", named.name]
    words += [*([group] if group else []), *(f"--enable={name}" for name in options["wanted"])]
    with Progress(quiet=shared.as_json) as progress:
        launcher = Launcher.start(words, named.workspace)
        for service, record in launcher.changes():
            text = f"{record.state}{': ' if record.text else ''}{record.text}"
            progress.tell(service, text, waits=record.is_coming)
    if launcher.exit_code is not None:
        return _has_ended(launcher, shared)
    _summary(named, all_ready=launcher.is_ready, as_json=shared.as_json)
    return 0 if launcher.is_ready else 5 if launcher.is_late else 7


def _has_ended(launcher: Launcher, shared: Common) -> int:
    said = launcher.said()
    if shared.as_json:
        raise errors.Command(" ".join(said) or "the launcher has ended", argv=["start"], returncode=launcher.exit_code)
    for text in said:
        talk(text)
    return launcher.exit_code or 0
