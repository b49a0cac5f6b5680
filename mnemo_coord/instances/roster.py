"""The file ``instances.yaml``: the named instances that exist on this machine, written by us and by people.

::

    instances:
      dev:
        workspace: ~/.jiuwenswarm_dev      # by default <home>_dev; relative to this file
        ports:
          agent_server: 19092              # a service that is not named here has the port of the slot

It is read strictly. What is not ``instances`` and begins with ``x-`` is a person's, and passed over. An entry is added and
removed as lines, so that every other line stays as it was, byte for byte; where entries are written in braces the document is
written anew, with comments, order and quotes kept. Either way it is read again before it is published, whole or not at all, and
a file that has changed meanwhile is not overwritten. Who changes it holds the kernel lock of its folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.disk import files, locks, vanishing
from mnemo_coord.instances.document import Section, load
from mnemo_coord.instances.project import Project
from mnemo_coord.instances.services import PORTS, number
from mnemo_coord.members.identity import check_name

__all__ = ["Entry", "checked", "content", "held", "publish", "read", "with_entry", "without_entry"]

_PATIENCE: Final = 10.0
"""Seconds."""
_PLAIN: Final = re.compile(r"[A-Za-z~/][A-Za-z0-9_./~+-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A named instance as the file has it."""

    name: str
    workspace: Path
    """Links resolved."""
    ports: dict[str, int]
    """Those that the file says."""


def checked(name: str, project: Project) -> str:
    """Returns the name of an instance if it is a valid one.

    Raises:
        errors.Config: saying which rule it breaks.
    """
    if isinstance(name, str) and name.lower() == project.name.lower():
        raise errors.Config(f"instance {name!r} is called like its project", hint="choose another name", key="instance")
    return check_name(name, "instance")


# Reading


def read(path: Path, project: Project, home: Path, default: Entry) -> list[Entry]:
    """The entries, in their order; none where there is no file. ``default`` has what none of them may have.

    Raises:
        errors.Config: something in it is unknown, not valid, or there twice; file, line and key are in the message.
        errors.State: it cannot be read.
    """
    try:
        whole = load(path)
    except errors.NotFound:
        return []
    whole.only("instances", *(name for name in whole if name.startswith("x-")))
    if "instances" not in whole:
        raise whole.wrong(None, "has no `instances`", "instances: {NAME: {workspace: …, ports: {…}}}")
    section, found = whole.section("instances"), [default]
    for name in section:
        found.append(_entry(section, name, project, home))
        _distinct(section, found)
    return found[1:]


def _entry(section: Section, name: str, project: Project, home: Path) -> Entry:
    try:
        checked(name, project)
    except errors.Config as error:
        raise section.wrong(name, error.message, error.hint) from None
    one = section.section(name).only("workspace", "ports")
    place: str = one.value("workspace", str, f"{home}_{name}")
    if not place or not place.isprintable():
        raise one.wrong("workspace", f"{place!r} is not a path")
    ports = one.section("ports").only(*(service.name for service in project.services))
    return Entry(
        name=name,
        workspace=Path(os.path.realpath(section.path.parent / os.path.expanduser(place))),
        ports={service: number(ports, service, 0, PORTS) for service in ports},
    )


def _distinct(section: Section, found: list[Entry]) -> None:
    """Makes sure that the last one has nothing that one before it, or a service of its own, has."""
    *others, last = found
    one = section.section(last.name)
    twin = next((other for other in others if other.workspace == last.workspace), None)
    if twin and "workspace" in one:
        raise one.wrong("workspace", f"{last.workspace} is that of {twin.name}")
    if twin:
        raise section.wrong(last.name, f"its workspace {last.workspace} is that of {twin.name}")
    taken = {port: (other.name, service) for other in others for service, port in other.ports.items()}
    for service, port in last.ports.items():
        if port in taken:
            owner, theirs = taken[port]
            raise one.section("ports").wrong(service, f"{port} is the port of {owner}'s {theirs}")
        taken[port] = (last.name, service)


# Writing


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Nobody else of us changes the file during the block. Its folder has to be there.

    Raises:
        errors.TimedOut: another process holds it.
        errors.State: the folder cannot be opened.
    """
    folder = Path(os.path.realpath(path)).parent  # one lock for every link that leads there
    try:
        lock = locks.Descriptor(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise errors.State.at(folder, (error.strerror or str(error)).lower()) from None
    try:
        if not locks.take_descriptor(lock.fd, _PATIENCE):
            pid = locks.holder_pid(lock.fd)
            who = f"process {pid}" if pid else "another process"
            what = f"{path}: still being changed by {who} after {_PATIENCE:g} s"
            raise errors.TimedOut(what, hint="try again; if that process hangs, end it", timeout=_PATIENCE)
        yield
    finally:
        lock.close()


def content(path: Path) -> bytes | None:
    """The bytes of the file; None where there is none.

    Raises:
        errors.State: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise errors.State.at(path, (error.strerror or str(error)).lower()) from None


def publish(path: Path, before: bytes | None, after: bytes) -> bool:
    """Replaces the file, which is `held`, through a link, with its mode kept. False, and nothing done, where it has changed.

    Raises:
        errors.State: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    tmp = f".{target.name}.{os.getpid()}.tmp"
    try:
        mode = target.stat().st_mode & 0o777 if before is not None else files.FILE_MODE
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with files.opened(folder):
            # RACE: who saves it in an editor between this look and the rename holds no lock: there is none for editors.
            if content(target) != before:
                return False
            vanishing.sweep(folder, f".{target.name}")
            files.publish(target.name, after, dir_fd=folder, tmp_name=tmp, tmp_fd=folder, durable=True, mode=mode)
    except OSError as error:
        raise errors.State.at(path, (error.strerror or str(error)).lower()) from None
    return True


def with_entry(before: bytes | None, name: str, workspace: str, ports: Mapping[str, int]) -> bytes:
    """The text with one more entry, at the end of the others. ``before`` has been read without an error.

    Raises:
        errors.Config: it is written in a way in which no entry can be added without changing others.
    """
    body: dict[str, Any] = {"workspace": workspace, **({"ports": dict(ports)} if ports else {})}
    text = (before or b"instances:\n").decode()
    wanted = _plain(text)
    wanted["instances"] = {**(wanted["instances"] or {}), name: body}
    return _first_right(wanted, (lambda: _line_added(text, name, body), lambda: _written_anew(text, name, body)), name)


def without_entry(before: bytes, name: str) -> bytes:
    """The text without an entry. Comments above it stay, for they may be about more.

    Raises:
        errors.Config: it is written in a way in which the entry cannot be removed without changing others.
    """
    text = before.decode()
    wanted = _plain(text)
    wanted["instances"] = {other: body for other, body in wanted["instances"].items() if other != name}
    return _first_right(wanted, (lambda: _line_removed(text, name), lambda: _written_anew(text, name, None)), name)


def _first_right(wanted: dict[str, Any], ways: tuple[Any, ...], name: str) -> bytes:
    """What the first way makes that says what is wanted."""
    from ruamel.yaml.error import YAMLError

    for way in ways:
        with suppress(YAMLError, ValueError, AttributeError, LookupError):
            found: str = way()
            said = _plain(found)
            if {**said, "instances": said.get("instances") or {}} == wanted:
                return found.encode()
    what = f"instances.yaml is written in a way in which {name!r} cannot be changed without changing more"
    raise errors.Config(what, hint="change it by hand", key=f"instances.{name}")


def _plain(text: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    return dict(YAML(typ="safe", pure=True).load(text) or {})


def _round(text: str) -> tuple[Any, Any]:
    """The round trip of ruamel, set up to leave quotes and long lines alone, and the document."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.preserve_quotes, yaml.width = True, 1_000_000
    return yaml, yaml.load(text)


def _written_anew(text: str, name: str, body: dict[str, Any] | None) -> str:
    yaml, document = _round(text)
    if body is None:
        del document["instances"][name]
    elif document["instances"]:
        document["instances"][name] = body
    else:
        document["instances"] = {name: body}
    out = StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _line_added(text: str, name: str, body: dict[str, Any]) -> str:
    _, document = _round(text)
    lines: list[str] = text.splitlines(keepends=True)
    entries: Any = document["instances"]
    ending = "\r\n" if lines[0].endswith("\r\n") else "\n"
    if entries:
        places = [entries.lc.key(other) for other in entries]
        column = places[0][1]
        end = _end(lines, max(line for line, _ in places), column)
        step = next((one.lc.key(next(iter(one)))[1] - column for one in entries.values() if one), 2)
    else:
        column, step, end = 2, 2, document.lc.key("instances")[0] + 1
    if end and not lines[end - 1].endswith(("\n", "\r")):
        lines[end - 1] += ending
    fresh = [f"{' ' * column}{_scalar(name)}:", *_indented(body, " " * (column + step), " " * step)]
    return "".join([*lines[:end], *(f"{line}{ending}" for line in fresh), *lines[end:]])


def _indented(body: Mapping[str, Any], indent: str, step: str) -> Iterator[str]:
    for key, value in body.items():
        if isinstance(value, dict):
            yield f"{indent}{_scalar(key)}:"
            yield from _indented(value, indent + step, step)
        else:
            yield f"{indent}{_scalar(key)}: {_scalar(value)}"


def _line_removed(text: str, name: str) -> str:
    _, document = _round(text)
    lines = text.splitlines(keepends=True)
    first, column = document["instances"].lc.key(name)
    return "".join([*lines[:first], *lines[_end(lines, first, column) :]])


def _end(lines: list[str], first: int, column: int) -> int:
    """The line behind the entry that begins in a line; a comment that is indented like what is in it belongs to it."""
    end = first + 1
    for place in range(first + 1, len(lines)):
        text = lines[place].strip()
        deep = len(lines[place]) - len(lines[place].lstrip(" ")) > column
        if text and not deep and not text.startswith("#"):
            break
        if text and deep:
            end = place + 1
    return end


def _scalar(value: object) -> str:
    """How a key or a value is written: plain where that is read as the same text."""
    from ruamel.yaml import YAML

    text = str(value)
    if isinstance(value, int):
        return text
    if _PLAIN.fullmatch(text) and YAML(typ="safe", pure=True).load(text) == text:
        return text
    return json.dumps(text, ensure_ascii=False)
