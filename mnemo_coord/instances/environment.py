"""The environment of an instance: what a program has to know to keep out of the others' way.

Evaluating it twice, or in a shell that has evaluated that of another instance, gives what a fresh shell gets. For that, what is
exported also says what was there before (the idea is direnv's): `given` undoes it, so that only what a person has set counts as
set.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from mnemo_coord import errors
from mnemo_coord.instances.project import FILE, Project, Value, ValueKind

__all__ = ["FORMATS", "MARK", "changes", "compose_files", "given", "variables"]

MARK: Final = "MNEMOSYNE_ENV"
"""What was exported, and what was there before: ``{"NAME": [before or null, exported]}``."""
_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_NUMBER: Final = re.compile(r"_[0-9]+\Z")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+=,-]+", re.ASCII)


def given(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what was exported before, unless somebody has changed it since."""
    kept = dict(environ)
    try:
        before = json.loads(kept.pop(MARK, "{}"))
        for name, (was, exported) in before.items():
            if kept.get(name) == exported:
                del kept[name]
                if was is not None:
                    kept[name] = was
    except (ValueError, TypeError, AttributeError):
        return {name: value for name, value in environ.items() if name != MARK}  # somebody else's variable
    return kept


def variables(
    project: Project,
    slot: int,
    name: str,
    ports: Mapping[str, int],
    surroundings: Mapping[str, str],
    held: Collection[str] | None = None,
) -> dict[str, str]:
    """Every variable of an instance. ``surroundings`` are what `given` returns.

    Of the singletons it has those that are ``held``; where nobody says, those of its slot, unless their variable is set.

    Raises:
        errors.Config: a placeholder of the project's file means nothing.
    """
    found = {project.variable: str(slot), "COMPOSE_PROJECT_NAME": f"{project.name}-{slot}".lower()}
    found |= _compose_file(project, slot, surroundings)
    if project.services:
        found["PORT"] = str(ports[project.services[0].name])
    found |= {service.variable: str(ports[service.name]) for service in project.services}
    facts = {"slot": str(slot), "name": name, "project": project.name, "root": str(project.root)}
    facts |= {f"ports.{service}": str(port) for service, port in ports.items()}
    for value in project.environment:
        known = facts | {f"env.{variable}": text for variable, text in found.items()}
        if value.kind is ValueKind.SINGLETON:
            found[value.variable] = _singleton(project, value, slot, held, surroundings)
        else:
            found[value.variable] = _made(project, value, slot, ports, known, surroundings.get(value.variable))
    return found


def compose_files(project: Project, slot: int) -> list[Path]:
    """The compose files of a project and, behind them, the override of a slot; none where there are none."""
    found = [project.root / name for name in project.compose]
    return [*found, found[0].with_name(f"{found[0].stem}.mnemosyne-{slot}.yml")] if found else []


def _compose_file(project: Project, slot: int, surroundings: Mapping[str, str]) -> dict[str, str]:
    """Where Compose finds its files. An override that is not written yet is named too: Compose then refuses, which is safe."""
    paths = [str(path) for path in compose_files(project, slot)]
    if not paths:
        return {}
    usual = surroundings.get("COMPOSE_PATH_SEPARATOR") or ":"
    separator = next((one for one in (usual, ":", "|", ";") if not any(one in path for path in paths)), usual)
    own = {} if separator == usual else {"COMPOSE_PATH_SEPARATOR": separator}
    return {"COMPOSE_FILE": separator.join(paths), **own}


def _made(
    project: Project, value: Value, slot: int, ports: Mapping[str, int], known: Mapping[str, str], set_by_hand: str | None
) -> str:
    text = _filled(project, value, known)
    if value.kind is ValueKind.NUMBERED:
        return f"{_NUMBER.sub('', set_by_hand or text)}_{slot}"
    if value.kind is ValueKind.URL:
        return _url(set_by_hand or text, ports[value.port], urlsplit(text).path)
    return text


def _singleton(project: Project, value: Value, slot: int, held: Collection[str] | None, surroundings: Mapping[str, str]) -> str:
    if held is not None:
        return str(value.text in held).lower()
    return surroundings.get(value.variable) or str(project.singletons[value.text] == slot).lower()


def _filled(project: Project, value: Value, known: Mapping[str, str]) -> str:
    def fill(found: re.Match[str]) -> str:
        if found[1] not in known:
            where = f"{project.root / FILE}:{value.line}" if value.line else str(project.root / FILE)
            what = f"{where}: environment.{value.variable}: {found[0]} means nothing here"
            raise errors.Config(what, hint=f"known are {', '.join(known)}", key=f"environment.{value.variable}")
        return known[found[1]]

    return _PLACE.sub(fill, value.text)


def _url(text: str, port: int, path: str) -> str:
    """A URL with another port and path; user, password and host stay."""
    parts = urlsplit(text)
    user, at, host = parts.netloc.rpartition("@")
    host = host[: host.index("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host or 'localhost'}:{port}", path=path))


def changes(wanted: Mapping[str, str], surroundings: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What has to be exported in a shell, the mark included, and what has to be unset. ``surroundings`` are the shell's own."""
    plain = given(surroundings)
    exported = dict(wanted)
    over = [name for name in surroundings if name != MARK and name not in wanted and plain.get(name) != surroundings[name]]
    exported |= {name: plain[name] for name in over if name in plain}
    exported[MARK] = json.dumps({name: [plain.get(name), value] for name, value in wanted.items()}, separators=(",", ":"))
    return exported, [name for name in over if name not in plain]


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else "'" + text.replace("'", "'\\''") + "'"


def _sh(wanted: Mapping[str, str], surroundings: Mapping[str, str]) -> str:
    exported, over = changes(wanted, surroundings)
    lines = [f"unset {name}" for name in over] + [f"export {name}={_quoted(value)}" for name, value in exported.items()]
    return "\n".join(lines)


def _fish(wanted: Mapping[str, str], surroundings: Mapping[str, str]) -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    exported, over = changes(wanted, surroundings)
    lines = [f"set -e {name}" for name in over] + [f"set -gx {name} {quoted(value)}" for name, value in exported.items()]
    return "\n".join(lines)


def _dotenv(wanted: Mapping[str, str], _surroundings: Mapping[str, str]) -> str:
    return "\n".join(f"{name}={_quoted(value)}" for name, value in wanted.items())


def _json(wanted: Mapping[str, str], _surroundings: Mapping[str, str]) -> str:
    return json.dumps(dict(wanted), ensure_ascii=False)


FORMATS: Final[dict[str, Callable[[Mapping[str, str], Mapping[str, str]], str]]] = {
    "sh": _sh,
    "fish": _fish,
    "direnv": _sh,
    "dotenv": _dotenv,
    "json": _json,
}
"""Ways to write an environment: a function of what is wanted and of the shell's own environment."""
