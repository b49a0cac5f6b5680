"""The entry point: finds the command, runs it, and turns whatever goes wrong into one line and an exit code.

Each command lives in a module that is loaded only when it runs. Answering ``--version`` loads nothing at all: with programs
that call us a hundred times a minute it is the whole-process time that counts.
"""

from __future__ import annotations

import os
import sys

import mnemo_coord

__all__ = ["entry", "main"]


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["--version"], ["-V"]):
        sys.stdout.write(f"mnemosyne {mnemo_coord.__version__}\n")
        return 0
    return _run(arguments)


def entry() -> None:
    """The console script: `main`, and out.

    Taking the interpreter apart costs a tenth of a short command's time and does nothing for it: what has to be given back is
    given back by the time `main` returns, and the kernel does the rest.
    """
    code = main()
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105  # contextlib is a third of what --version loads
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # whoever read it is gone
    os._exit(code)


class Terminated(BaseException):
    """SIGTERM or SIGHUP: unwinds like Ctrl-C, so that nothing is left behind."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _run(arguments: list[str]) -> int:
    import signal

    if _command(arguments) == "serve":
        # It takes its signals by sigwait. Until then they wait: an exception that a handler raises while a module is being
        # imported may be swallowed there ("Exception ignored in …"), and the Ctrl-C with it.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    import gc

    gc.set_threshold(20_000)  # importing makes much and drops little: looking for garbage 30 times meanwhile finds none

    # Started with an output closed (`>&-`), Python has None in its place.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        return _invoke(arguments)
    except KeyboardInterrupt:
        return 130
    except Terminated as end:
        return 128 + end.number
    except BrokenPipeError:
        # Whoever read our output has seen enough. Without this, flushing at exit would complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)


def _command(arguments: list[str]) -> str:
    """Which command it is, before anything is there that could parse the rest."""
    words = iter(arguments)
    for word in words:
        if word == "--dir":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


def _terminate(number: int, _frame: object) -> None:
    raise Terminated(number)


def _invoke(arguments: list[str]) -> int:
    import click

    from mnemo_coord.cli.commands import root
    from mnemo_coord.cli.output import complain
    from mnemo_coord.errors import CoordinationError

    as_json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    try:
        outcome = root.main(args=arguments, prog_name="mnemosyne", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except click.exceptions.Abort:
        return 130
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "mnemosyne"
        return complain("usage", error.format_message(), f"`{where} --help` shows how", 2, as_json=as_json)
    except click.ClickException as error:
        return complain("usage", error.format_message(), "", error.exit_code, as_json=as_json)
    except CoordinationError as error:
        return complain(error.code, error.message, error.hint, error.exit_code, as_json=as_json)
    except BrokenPipeError:
        raise
    except MemoryError:
        return complain("state", "out of memory", "raise the limit (ulimit -v)", 6, as_json=as_json)
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        what = f"{error.filename}: {cause}" if error.filename else cause
        return complain("state", what, "check permissions, free space and limits of open files", 6, as_json=as_json)
    except Exception as error:
        if os.environ.get("MNEMOSYNE_DEBUG"):
            raise
        what = f"unexpected {type(error).__name__}: {error}"
        return complain("internal", what, "MNEMOSYNE_DEBUG=1 shows where; please report it", 1, as_json=as_json)


if __name__ == "__main__":
    entry()
