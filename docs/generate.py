"""Writes the generated parts of the reference from the code. ``--check`` only says whether they are up to date."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import click

from mnemo_coord import coordinator, errors, events, settings
from mnemo_coord.cli.commands import _COMMANDS, root
from mnemo_coord.disk.files import CrashPoint

REFERENCE = Path(__file__).parent / "reference"


def cli() -> str:
    parts = []
    for name, (_, summary) in _COMMANDS.items():
        command = root.get_command(click.Context(root), name)
        if isinstance(command, click.Group):
            parts += [_command(f"{name} {inner}", found, found.help or "") for inner, found in command.commands.items()]
        elif command is not None:
            parts.append(_command(name, command, summary))
    return "\n".join(parts)


def _command(name: str, command: click.Command, summary: str) -> str:
    arguments = [parameter.make_metavar(click.Context(command)) for parameter in command.params if isinstance(parameter, click.Argument)]
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    rows = [f"| `{_spelled(option)}` | {(option.help or '').replace('|', chr(92) + '|')} |" for option in options]
    text = inspect.cleandoc(command.help or summary).replace("\n\n", "\n\n")
    usage = " ".join(["mnemosyne", name, "[OPTIONS]", *arguments])
    return f"## {name}\n\n```text\n{usage}\n```\n\n{text}\n\n| option | |\n|---|---|\n" + "\n".join(rows) + "\n"


def _spelled(option: click.Option) -> str:
    names = ", ".join(option.opts)
    return names if option.is_flag else f"{names} {option.make_metavar(click.Context(root))}".replace("|", "/")


def settings_table() -> str:
    rows = ["| setting | default | unit | variable | |", "|---|---|---|---|---|"]
    for setting in fields(settings.Settings):
        about = setting.metadata
        variable = f"`{about['variable']}`" if about["variable"] else "-"
        rows.append(f"| `{setting.name}` | `{setting.default}` | {about['unit']} | {variable} | {about['help']} |")
    return "\n".join(rows) + "\n"


def error_pages() -> str:
    parts = []
    for name in errors.__all__:
        kind = getattr(errors, name)
        hint = f"\n\nHint: {kind.default_hint}." if kind.default_hint else ""
        parts.append(f"## {kind.code}\n\n`errors.{name}`, exit code {kind.exit_code}. {inspect.cleandoc(kind.__doc__ or '')}{hint}\n")
    return "\n".join(parts)


def event_kinds() -> str:
    return "\n".join(f"- `{kind}`" for kind in events.EventKind) + "\n"


def crash_points() -> str:
    return "\n".join(f"- `{point}`" for point in CrashPoint) + "\n"


def python_api() -> str:
    parts = []
    for name, member in vars(coordinator.Coordinator).items():
        if name.startswith("_"):
            continue
        if inspect.isfunction(member):
            signature = str(inspect.signature(member)).replace("(self, ", "(").replace("(self)", "()")
            parts.append(f"### {name}\n\n```text\n{name}{signature}\n```\n\n{_prose(member)}\n")
        elif isinstance(member, property):
            parts.append(f"### {name}\n\n{_prose(member)}\n")
    return "\n".join(parts)


def _prose(member: object) -> str:
    text = inspect.getdoc(member) or ""
    return re.sub(r"\nRaises:\n((?:    .*\n?)+)", lambda found: "\n" + _raises(found[1]), text + "\n").rstrip()


def _raises(block: str) -> str:
    lines = [line.strip() for line in block.strip().splitlines()]
    return "Raises:\n\n" + "\n".join(f"- `{line.partition(':')[0]}`:{line.partition(':')[2]}" for line in lines)


PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "cli": ("cli.md", cli),
    "settings": ("settings.md", settings_table),
    "errors": ("errors.md", error_pages),
    "events": ("events.md", event_kinds),
    "crash-points": ("state-on-disk.md", crash_points),
    "coordinator": ("python-api.md", python_api),
}


def render(page: str, part: str, text: str) -> str:
    """The page with the text between its two markers replaced."""
    pattern = re.compile(rf"(<!-- generated: {part} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"no marker for {part}")
    return pattern.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something is out of date")
    check = parser.parse_args().check
    stale = []
    for part, (name, make) in PARTS.items():
        path = REFERENCE / name
        before = path.read_text()
        after = render(before, part, make())
        if after != before:
            stale.append(name)
            if not check:
                path.write_text(after)
    if stale:
        print(("out of date: " if check else "written: ") + ", ".join(stale))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
