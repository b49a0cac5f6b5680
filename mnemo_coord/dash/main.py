"""The entry point of ``mnemosyne-dash``: it chooses the source, runs the dashboard, and turns what goes wrong into one line.

Nothing heavy is loaded before it is known that there is something to show and a terminal to show it on.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import mnemo_coord

if TYPE_CHECKING:
    import click

    from mnemo_coord.dash.app import Dashboard
    from mnemo_coord.dash.source import Source

__all__ = ["entry", "main"]

_NAME = "mnemosyne-dash"


def entry() -> None:
    """The console script."""
    sys.exit(main())


def main(argv: list[str] | None = None) -> int:
    """Runs the dashboard and returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["--version"], ["-V"]):
        sys.stdout.write(f"{_NAME} {mnemo_coord.__version__}\n")
        return 0
    return _run(arguments)


def _run(arguments: list[str]) -> int:
    import click

    from mnemo_coord.errors import CoordinationError

    try:
        outcome = _command().main(args=arguments, prog_name=_NAME, standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except (KeyboardInterrupt, click.exceptions.Abort):
        return 0
    except click.ClickException as error:
        return _complain(error.format_message(), f"`{_NAME} --help` shows how", error.exit_code)
    except CoordinationError as error:
        return _complain(error.message, error.hint, error.exit_code)
    except Exception as error:
        if os.environ.get("MNEMOSYNE_DEBUG"):
            raise
        return _complain(f"unexpected {type(error).__name__}: {error}", "MNEMOSYNE_DEBUG=1 shows where; please report it", 1)


def _complain(message: str, hint: str, exit_code: int) -> int:
    from mnemo_coord.display import printable

    sys.stderr.write(printable(f"{_NAME}: {message}" + (f" ({hint})" if hint else "")) + "\n")
    return exit_code


def _command() -> click.Command:
    import click

    @click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
    @click.version_option(mnemo_coord.__version__, "-V", "--version", message=f"{_NAME} %(version)s")
    @click.option("--api", metavar="URL", help="The HTTP API of a running instance. Without it the state directory is read.")
    @click.option("--dir", "dir_", metavar="PATH", help="The state directory.")
    def command(api: str | None, dir_: str | None) -> int:
        """Show the fleet in the terminal: who needs attention, who is here, what waits, what happens."""
        return _show(api, dir_)

    return command


def _show(api: str | None, dir_: str | None) -> int:
    elsewhere = _elsewhere()
    if elsewhere:
        return _complain(f"{elsewhere} is not a terminal", "`mnemosyne list` prints who is here", 2)
    try:
        from mnemo_coord.dash.app import Dashboard
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in {"textual", "rich"}:
            raise
        sys.stderr.write("the dashboard needs textual (pip install 'mnemo-coord[dash]')\n")
        return 2
    return _display(Dashboard(_source(api, dir_)))


def _elsewhere() -> str:
    """The stream that is not a terminal; empty when all of them are. Keys come from stdin, and textual draws on stderr."""
    streams = {"stdout": sys.stdout, "stdin": sys.stdin, "stderr": sys.stderr}
    return next((name for name, stream in streams.items() if stream is None or not stream.isatty()), "")


def _source(api: str | None, dir_: str | None) -> Source:
    from mnemo_coord.client import ApiSource, DirectorySource

    return DirectorySource(dir_) if api is None else ApiSource(api, dir_)


def _display(dashboard: Dashboard) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda ended, _frame: dashboard.exit(return_code=128 + ended))
    try:
        dashboard.run()
    finally:
        dashboard.follower.stop()
        dashboard.follower.join()
    return dashboard.return_code or 0


if __name__ == "__main__":
    entry()
