"""Which commands there are, where each one lives, and the options that all of them have."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, NamedTuple

import click

import mnemo_coord

__all__ = ["Common", "common", "root"]

# Name, module and attribute, and the line in the overview: listing the commands loads none of them.
_COMMANDS: Final = {
    "serve": ("serve", "Run an instance in the foreground."),
    "list": ("instances", "Show who is in the fleet."),
    "send": ("send", "Send a message to an instance, a name or a @role."),
    "receive": ("receive", "Take what waits for a name or a @role."),
    "queue": ("queue", "Show every mailbox; put back or drop what was set aside."),
    "report": ("report", "Say what an instance is doing: working, idle, waiting or stuck."),
    "dashboard": ("dashboard", "Print the address of the web dashboard, good for one browser."),
    "doctor": ("doctor", "Look at everything; mend it with --fix."),
    "remember": ("remember", "Store what all instances are to know."),
    "recall": ("recall", "Find what is known."),
    "forget": ("forget", "Remove memories."),
    "memories": ("memories", "Link, export, import and back up memories."),
    "events": ("events", "Show what happened in the fleet."),
    "branch": ("branch", "Who works on which branch and files."),
    "worktree": ("worktree", "Git worktrees of instances."),
    "hooks": ("hooks", "A hook of git that refuses commits of files that others hold."),
    "init": ("init", "Make a named instance, or begin a project."),
    "instances": ("named", "Show the named instances of this project."),
    "rm": ("rm", "Remove a named instance."),
    "env": ("env", "Print the environment of an instance."),
    "render": ("render", "Write the files of an instance."),
    "compose": ("compose", "Show what compose files publish and share."),
    "slots": ("slots", "Show which checkout has which slot and ports."),
    "scope": ("scope", "Show under which name things are stored here."),
    "trust": ("trust", "Let the commands of a mnemosyne.yaml run."),
    "run": ("run", "Run any program as an instance."),
    "start": ("start", "Run the services of an instance."),
    "stop": ("stop", "End an instance, to its last process."),
    "restart": ("restart", "End an instance and run it again."),
    "status": ("status", "Show an instance and its services."),
    "service": ("service", "Print a systemd unit that runs an instance."),
    "jobs": ("jobs", "The queue of an instance: commands that are run, so many at once."),
    "ps": ("ps", "Show what an instance has started and still runs."),
    "kill": ("kill", "End one process, job or service of an instance."),
    "logs": ("logs", "Show what the services and jobs of an instance have printed."),
    "own": ("own", "Run a command while holding the owner lock of a file."),
    "config": ("config", "Show every setting and where it came from."),
    "completion": ("completion", "Print the shell's completion script."),
}


class Common(NamedTuple):
    """The options that every command has."""

    dir: str | None
    as_json: bool


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"mnemo_coord.cli.{_COMMANDS[cmd_name][0]}")
        found: click.Command = module.command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = _nearest(args[0])
            more = f" Did you mean {near!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{more}", ctx) from error


def _nearest(word: str) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(word, list(_COMMANDS), 1)), None)


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(mnemo_coord.__version__, "-V", "--version", message="mnemosyne %(version)s")
@click.option("--dir", "dir_", metavar="PATH", help="The state directory.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def root(ctx: click.Context, dir_: str | None, *, as_json: bool) -> None:
    """Many copies of a program on one machine: who is alive, what they hold, what they say to each other."""
    ctx.obj = Common(dir_, as_json)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--dir`` and ``--json`` and passes them as one `Common`; given before the command they count too."""

    @click.option("--dir", "dir_", metavar="PATH", help="The state directory.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @click.pass_context
    def wrapped(ctx: click.Context, /, dir_: str | None, *, as_json: bool, **options: Any) -> Any:
        above = ctx.find_object(Common) or Common(None, as_json=False)
        return function(Common(dir_ or above.dir, as_json or above.as_json), **options)

    wrapped.__doc__ = function.__doc__
    wrapped.__name__ = function.__name__
    if hasattr(function, "__click_params__"):
        wrapped.__click_params__ = [*function.__click_params__, *wrapped.__click_params__]  # type: ignore[attr-defined]
    return wrapped
