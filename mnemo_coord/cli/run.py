"""``mnemosyne run``: any program, in any language, as an instance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.here import Enabling, take_singletons, warn_unscoped
from mnemo_coord.cli.naming import one_name
from mnemo_coord.cli.output import talk

if TYPE_CHECKING:
    from mnemo_coord.cli.here import Here
    from mnemo_coord.instances.service_ports import ServicePorts
    from mnemo_coord.instances.services import Service

__all__ = ["command"]


class _Run(Enabling):
    """What stands behind ``--`` is another program's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        rest = super().parse_args(ctx, args[:end])
        ctx.params["argv"] = tuple(args[end + 1 :])
        return rest


@click.command("run", cls=_Run)
@click.option("--name", metavar="NAME", envvar="MNEMOSYNE_INSTANCE", help="Whose place it takes; the same as NAME.")
@click.option("--role", "roles", metavar="ROLE", multiple=True, help="What it can do. May be given several times.")
@click.option("--service", "services", metavar="SERVICE", multiple=True, help="What it serves; else all that is free.")
@click.option("--listen-fds", is_flag=True, help="Hand it listening sockets, by the protocol of LISTEN_FDS.")
@click.option("--enable", "wanted", metavar="SINGLETON", multiple=True, help="Ask for a singleton; also --enable-SINGLETON.")
@click.argument("called", required=False, metavar="[NAME] [-- COMMAND…]")
@common
def command(shared: Common, *, name: str | None, called: str | None, argv: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND as an instance: registered and beating as long as it runs, with its project's environment and ports.

    NAME is what it is called in the fleet; where the project has a named instance of that name, it is that one. Without COMMAND
    the one of --service is run, if the project's mnemosyne.yaml is trusted. Its ports are kept for it until it listens. Signals
    are passed on, and its exit code becomes ours. In it, `mnemosyne report`, `branch` and `send` speak for it.
    """
    from mnemo_coord.coordinator import Coordinator
    from mnemo_coord.supervise.process import run_in_foreground

    services: tuple[str, ...] = options["services"]
    if not argv and len(services) != 1:
        raise click.UsageError("What is to be run? `-- COMMAND`, or one --service that has a command in mnemosyne.yaml.")
    name = one_name(called, None) or name
    here = _here(name, needed=bool(services or options["wanted"]))
    if here and here.named and here.named.name == name == "default":
        name = None  # nobody in a fleet can be called so
    with ExitStack() as stack:
        me = stack.enter_context(Coordinator(shared.dir, name=name, roles=options["roles"]))
        own = {"MNEMOSYNE_DIR": str(me.fleet.state.path), "MNEMOSYNE_INSTANCE": me.name or me.instance_id}
        if here is None:
            return run_in_foreground(argv, {**os.environ, **own})
        chosen = [here.project.service(service) for service in services]
        environ = {
            **here.surroundings,
            **here.variables(take_singletons(here, options["wanted"], me.instance_id, stack)),
            **own,
        }
        if chosen:
            environ["PORT"] = str(here.slot.ports[chosen[0].name])
        argv = argv or _command(here, chosen[0], environ)
        warn_unscoped(here.project, environ)
        ports = stack.enter_context(_ports(here, chosen, fds=options["listen_fds"]))
        return run_in_foreground(argv, environ, handed=ports.handed, reserved=ports.reserved)


def _here(name: str | None, *, needed: bool) -> Here | None:
    """The named instance, else that of the checkout here, where there is a project."""
    from mnemo_coord.cli.here import instance_here, is_instance

    try:
        here = instance_here(name if name is not None and is_instance(name) else None)
    except errors.NotFound:
        if needed:
            raise
        return None
    here.remind()
    return here


def _command(here: Here, service: Service, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The command of a service, from the project's file."""
    from mnemo_coord.instances.project import FILE
    from mnemo_coord.instances.templates import fill
    from mnemo_coord.instances.trust import Trust

    if not service.command:
        where = here.project.root / FILE
        raise errors.Config(
            f"{where}: services.{service.name} has no command", hint="-- COMMAND", key=f"services.{service.name}"
        )
    Trust().require(here.project, f"the command of {service.name} is not run")
    return tuple(fill(word, environ, environ) for word in service.command)


def _ports(here: Here, chosen: Sequence[Service], *, fds: bool) -> ServicePorts:
    """Keeps the ports of these services for the program, by default of all that are free."""
    from mnemo_coord.instances.service_ports import ServicePorts

    ports = ServicePorts.keep(chosen or here.project.services, here.slot.ports, fds=fds)
    if chosen and ports.taken:
        with ports:
            ports.refuse()
    for what in ports.busy().values():
        talk(f"mnemosyne: {what}")
    return ports
