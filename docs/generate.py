"""Writes the parts of the documentation that the code decides, between marker comments in the pages.

    python docs/generate.py            writes them anew
    python docs/generate.py --check    changes nothing; exit 1 and the names of the pages that are out of date

A part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; NAME is a key of `PARTS`.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click

import mnemo_coord
from mnemo_coord import errors, settings
from mnemo_coord.cli.commands import root
from mnemo_coord.disk import records
from mnemo_coord.disk.files import CrashPoint
from mnemo_coord.events import EventKind
from mnemo_coord.members import heartbeat, history, registry
from mnemo_coord.messages import address, file_name, message, set_aside
from mnemo_coord.supervise import states

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "mnemo_coord"
PAGES = [REPOSITORY / "ARCHITECTURE.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]

_MARKED = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    return f"`{text}`" if text not in {"", None} else ""


def shown(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE), ast.parse(path.read_text())


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


# The command line


def commands(command: click.Command = root, path: str = "mnemosyne") -> Iterator[tuple[str, click.Command]]:
    """Every command with what is typed for it."""
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            if found is not None:
                yield from commands(found, f"{path} {name}")


def _argument(argument: click.Argument) -> str:
    if isinstance(argument.type, click.Choice):
        return "{" + ",".join(map(str, argument.type.choices)) + "}"
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required else f"[{name}]"


def _usage(path: str, command: click.Command) -> str:
    places = [_argument(param) for param in command.params if isinstance(param, click.Argument)]
    more = ["COMMAND …"] if isinstance(command, click.Group) else []
    return " ".join([path, "[OPTIONS]", *places, *more])


def _option(option: click.Option) -> tuple[str, ...]:
    names = ", ".join(sorted(option.opts, key=len))
    spelled = names if option.is_flag else f"{names} {option.metavar or 'TEXT'}"
    needed = " Required." if option.required else ""
    return code(spelled.replace("|", "/")), code(option.envvar), (option.help or "") + needed


_EVERYWHERE = {"dir_", "as_json", "help"}


def cli() -> str:
    parts = []
    for path, command in commands():
        if command is root:
            continue
        options = [param for param in command.params if isinstance(param, click.Option)]
        everywhere = {option.name for option in options} & _EVERYWHERE
        rows = [_option(option) for option in options if option.name not in _EVERYWHERE]
        also = ["--dir", "--json", "--help"] if everywhere else ["--help"]
        parts += [
            f"## {path.removeprefix('mnemosyne ')}",
            f"```text\n{_usage(path, command)}\n```",
            inspect.cleandoc(command.help or ""),
        ]
        parts += [table(("Option", "Variable", "Meaning"), rows)] if rows else []
        parts += [f"{'Also' if rows else 'Options:'} {', '.join(map(code, also))}."]
    return "\n\n".join(parts)


def cli_root() -> str:
    options = [param for param in root.params if isinstance(param, click.Option)]
    rows = [_option(option) for option in options] + [(code("-h, --help"), "", "Show the help of a command.")]
    return table(("Option", "Variable", "Meaning"), rows)


# Tables off the code


def setting_rows() -> str:
    serve = dict(commands())["mnemosyne serve"]
    flags = {param.name: param.opts[-1] for param in serve.params if isinstance(param, click.Option)}
    rows = [
        (
            code(field.name),
            code(field.metadata["variable"]),
            code(f"serve {flags[field.name]}") if field.name in flags else "",
            code(shown(field.default)),
            field.metadata["unit"],
            f"{field.metadata['least']:g}" if field.metadata["least"] else "",
            field.metadata["help"],
        )
        for field in dataclasses.fields(settings.Settings)
    ]
    return table(("Setting", "Variable", "Flag", "Default", "Unit", "At least", "Meaning and trade-off"), rows)


def error_classes(kind: type[errors.CoordinationError] = errors.CoordinationError) -> Iterator[type[errors.CoordinationError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from error_classes(below)


def error_sections() -> str:
    rows, sections = [], []
    for kind in error_classes():
        above = [base.__name__ for base in kind.__bases__ if base is not Exception]
        rows.append((f"[`{kind.code}`](#{kind.code})", code(kind.__name__), ", ".join(map(code, above)), str(kind.exit_code)))
        hint = f"\n\nHint: {kind.default_hint}." if kind.default_hint else ""
        sections.append(
            f"## {kind.code}\n\n`{kind.__name__}`, exit code {kind.exit_code}. {_prose(inspect.getdoc(kind) or '')}{hint}"
        )
    return "\n\n".join([table(("Code", "Class", "Is also", "Exit"), rows), *sections])


def crash_rows() -> str:
    passed: dict[str, set[str]] = {}
    for path, tree in modules():
        if path.name == "files.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("CrashPoint"):
                passed.setdefault(node.attr, set()).add(dotted(path))
    rows = [(code(point), ", ".join(code(where) for where in sorted(passed.get(point.name, set())))) for point in CrashPoint]
    return table(("Crash point", "Passed in"), rows)


def event_rows() -> str:
    published: dict[str, set[str]] = {}
    for path, tree in modules():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in {"publish", "_publish", "_tell"}:
                for node in (node for argument in call.args for node in ast.walk(argument)):
                    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "EventKind":
                        published.setdefault(node.attr, set()).add(dotted(path))
    where = {kind: ", ".join(code(name) for name in sorted(published.get(kind.name, set()))) for kind in EventKind}
    return table(("Kind", "Published by"), [(code(kind), where[kind] or "nothing yet") for kind in EventKind])


def limit_rows() -> str:
    rows = [
        ("a message as stored", f"{message.LIMIT:,} bytes"),
        ("`process_registry.json`", f"{registry.LIMIT:,} bytes"),
        ("a record in a lock file", f"{registry.RECORD_LIMIT:,} bytes"),
        ("a heartbeat file", f"{heartbeat.SIZE} bytes, always"),
        ("`history.jsonl`, before it becomes `history.1.jsonl`", f"{history.LIMIT:,} bytes"),
        ("nesting of a payload", f"{records.MAX_DEPTH} levels"),
        ("the seal at the end of a record", f"{records.SEAL_LENGTH} bytes"),
        ("the name of a file in `new/`", code(file_name.PATTERN.pattern)),
        ("the folder of a name's or role's mailbox", code(address._BOX.pattern)),  # noqa: SLF001
    ]
    return "\n".join(f"- {what}: {limit}" for what, limit in rows)


# Findings

_FAMILIES: dict[str, tuple[str, ...]] = {
    # Codes that are composed: the pattern that stands in the code, and what it can become.
    "secret-*": (f"secret-{errors.Damaged.code}", f"secret-{errors.Untrusted.code}"),
    "messages-*": tuple(f"messages-{where.replace('_', '-')}" for where in (set_aside.REFUSED, set_aside.DEAD)),
}


def finding_codes() -> dict[str, tuple[str, str]]:
    """Every code of a finding, with its severity and the module that finds it."""
    found: dict[str, tuple[str, str]] = {}
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Finding":
                for name, severity in _codes_of(node, tree):
                    found[name] = (severity, dotted(path))
    return dict(sorted(found.items()))


def _codes_of(call: ast.Call, tree: ast.Module) -> list[tuple[str, str]]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    named, severity = given["code"], ast.unparse(given["severity"]).rpartition(".")[2].lower()
    if isinstance(named, ast.Constant):
        return [(named.value, severity)]
    if isinstance(named, ast.JoinedStr):
        pattern = "".join(part.value if isinstance(part, ast.Constant) else "*" for part in named.values)
        return [(name, severity) for name in _FAMILIES[pattern] if fnmatch(name, pattern)]
    # A table of the module: tuples that begin with a severity and a code.
    rows = (node.elts for node in ast.walk(tree) if isinstance(node, ast.Tuple) and len(node.elts) > 1)
    return [
        (row[1].value, ast.unparse(row[0]).rpartition(".")[2].lower())
        for row in rows
        if ast.unparse(row[0]).startswith("Severity.") and isinstance(row[1], ast.Constant)
    ]


def finding_rows() -> str:
    rows = [(f"[`{name}`](#{name})", severity, code(where)) for name, (severity, where) in finding_codes().items()]
    return table(("Code", "Severity", "Found by"), rows)


# The layers


def layers() -> str:
    contract = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    width = max(len(layer) for layer in contract["layers"]) + 2
    rule = "+" + "-" * width + "+"
    lines = [rule] + [line for layer in contract["layers"] for line in (f"|{layer:^{width}}|", rule)]
    return "```text\n" + "\n".join(lines) + "\n```"


# The Python API

_ORDER = (
    "Coordinator", "Fleet", "Message", "Receipt", "Failure", "Delivery", "Instance", "Verdict", "AgentReport", "AgentState",
    "Claim", "OwnerLock", "BranchWork", "Assignment", "BranchConflict", "BranchState", "Worktree",
    "Memories", "Memory", "MemoryLink",
    "scope", "Scope", "Event", "EventKind", "Report", "Finding", "Severity", "Settings", "CoordinationError",
)  # fmt: skip


def api() -> str:
    if set(_ORDER) | {"__version__"} != set(mnemo_coord.__all__):
        raise SystemExit(f"docs/generate.py: _ORDER and mnemo_coord.__all__ differ: {set(_ORDER) ^ set(mnemo_coord.__all__)}")
    return "\n\n".join(part for name in _ORDER for part in _public(name, getattr(mnemo_coord, name)))


def _public(name: str, exported: Any) -> Iterator[str]:
    if isinstance(exported, type):
        yield from _class(exported)
    else:
        yield from (f"## {name}()", _signature(name, exported, bound=False), _prose(inspect.getdoc(exported) or ""))


def _class(kind: type) -> Iterator[str]:
    yield f"## {kind.__name__}"
    if not issubclass(kind, (str, Exception)) and not dataclasses.is_dataclass(kind) and kind.__name__ not in _MADE_BY_OTHERS:
        yield _signature(kind.__name__, kind.__init__)
    yield _prose(inspect.getdoc(kind) or "")
    fields = list(_fields(kind))
    if fields:
        yield "\n".join(fields)
    own = [base for base in kind.__mro__ if base is kind or base.__name__ in _ABOVE]
    for name, member in (pair for base in own for pair in vars(base).items()):
        if name.startswith("_") or isinstance(member, type):
            continue
        yield from _member(f"{kind.__name__}.{name}", member)


_ABOVE = {"Database"}
"""Classes that are no name of their own, and whose members are those of the class below."""


_MADE_BY_OTHERS = {"Delivery", "Claim", "OwnerLock", "Fleet", "BranchWork", "Memories"}
"""Classes that a program gets from a call and does not make."""


def _member(title: str, member: Any) -> Iterator[str]:
    function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
    if isinstance(member, property):
        yield f"### {title}"
        yield f"*property*, `{inspect.signature(member.fget).return_annotation}`. {_prose(inspect.getdoc(member) or '')}"
    elif inspect.isfunction(function):
        yield f"### {title}()"
        yield _signature(title, function)
        yield _prose(inspect.getdoc(function) or "")


def _signature(name: str, function: Callable[..., Any], *, bound: bool = True) -> str:
    signature = inspect.signature(function)
    shown, star = [], False
    for parameter in list(signature.parameters.values())[bound:]:
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        prefix = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        star = star or bool(prefix)
        annotation = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        shown.append(f"{prefix}{parameter.name}{annotation}{default}")
    returns = "" if signature.return_annotation in {signature.empty, "None"} else f" -> {signature.return_annotation}"
    line = f"{name}({', '.join(shown)}){returns}"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in shown) + f"){returns}"
    return f"```text\n{line}\n```"


def _fields(kind: type) -> Iterator[str]:
    """Fields and attributes with the text below them."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    for body in [
        tree.body,
        *(node.body for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"),
    ]:
        for here, below in zip(body, [*body[1:], None], strict=True):
            said = _said(below)
            if isinstance(here, ast.AnnAssign) and isinstance(here.target, ast.Name):
                setting = _help_of(kind, here.target.id)
                yield f"- `{here.target.id}`: `{ast.unparse(here.annotation)}`. {said or setting}".rstrip()
            elif isinstance(here, ast.Assign) and issubclass(kind, str) and isinstance(here.value, ast.Constant):
                yield f"- `{here.value.value}`. {said}".rstrip()
            elif isinstance(here, ast.Assign) and said and ast.unparse(here.targets[0]).startswith("self."):
                yield f"- `{here.targets[0].attr}`. {said}"


def _said(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.replace("``", "`").split())
    return ""


def _help_of(kind: type, name: str) -> str:
    if kind is settings.Settings:
        return next(field.metadata["help"] for field in dataclasses.fields(kind) if field.name == name)
    return ""


def _prose(docstring: str) -> str:
    """A docstring as Markdown: its sections become lists."""
    lines = []
    for line in docstring.replace("``", "`").splitlines():
        if line in {"Args:", "Raises:"}:
            lines += [f"**{line[:-1]}**", ""]
        elif line.startswith("        "):
            lines[-1] += " " + line.strip()
        elif line.startswith("    "):
            name, _, text = line.strip().partition(": ")
            lines.append(f"- `{name}`: {text}")
        else:
            lines.append(line)
    return "\n".join(lines)


# All of it


def service_states() -> str:
    """The automaton of `supervise.states`, from its table: rows are states, columns what happens."""
    happenings = [one for one in states.Happening if any(one == happening for _, happening in states.TABLE)]
    rows = [(code(state), *(code(states.TABLE.get((state, one), "")) for one in happenings)) for state in states.State]
    lines = [f"    {state} --> {after}: {happening}" for (state, happening), after in states.TABLE.items()]
    picture = "\n".join(["```mermaid", "stateDiagram-v2", "    [*] --> stopped", *lines, "```"])
    return f"{table(('in', *happenings), rows)}\n\n{picture}"


PARTS: dict[str, Callable[[], str]] = {
    "cli": cli,
    "cli-root": cli_root,
    "settings": setting_rows,
    "errors": error_sections,
    "crash-points": crash_rows,
    "events": event_rows,
    "findings": finding_rows,
    "limits": limit_rows,
    "layers": layers,
    "service-states": service_states,
    "api": api,
}


def generated(text: str) -> str:
    """A page with its generated parts as they should be."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[3]}", text)


def main(arguments: list[str]) -> int:
    stale = []
    for page in PAGES:
        text = page.read_text()
        wanted = generated(text)
        if wanted != text:
            stale.append(page.relative_to(REPOSITORY))
            if "--check" not in arguments:
                page.write_text(wanted)
    for page in stale:
        print(f"{page}: {'out of date: run python docs/generate.py' if '--check' in arguments else 'written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
