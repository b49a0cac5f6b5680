"""Services: what an instance consists of. Each listens on a port of its own, and some are started by us.

::

    services:
      web:
        port: 8000                     # in slot 0; WEB_BASE_PORT in the environment wins
        base_variable: SHOP_WEB_PORT   # as does this one
        short: w
        variable: WEB_PORT
        group: app
        command: python -m http.server $PORT
        listen: reserve                # or fds, free
        ready: port                    # or {http: /health}, {log: "listening on"}, notify, none
        ready_within: 30               # seconds
        restart: on-failure            # or always, never
        grace: 10                      # seconds between SIGTERM and SIGKILL
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from mnemo_coord import errors
from mnemo_coord.instances.document import Section

__all__ = [
    "NAME",
    "PORTS",
    "VARIABLE",
    "Listen",
    "Ready",
    "ReadyKind",
    "Restart",
    "Service",
    "number",
    "read_services",
    "rebased",
    "variable",
]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
PORTS: Final = range(1, 65536)
_SECONDS: Final = range(3601)
_KEYS: Final = (
    "port", "base_variable", "short", "variable", "group", "command", "listen", "ready", "ready_within", "restart", "grace"
)  # fmt: skip


class Listen(StrEnum):
    """How a program comes to the port of a service."""

    RESERVE = "reserve"
    """It binds the port itself; until it listens nobody else can."""
    FDS = "fds"
    """It is given a listening socket, by the protocol of LISTEN_FDS."""
    FREE = "free"
    """It binds the port itself, and nothing is done: for a program that does not set SO_REUSEADDR."""


class ReadyKind(StrEnum):
    """By what a service is seen to be ready."""

    PORT = "port"
    """Its port takes connections."""
    HTTP = "http"
    """Its port answers a GET of a path with a status below 400."""
    LOG = "log"
    """It prints a line in which a regular expression is found."""
    NOTIFY = "notify"
    """It says so itself, by the protocol of sd_notify(3)."""
    NONE = "none"
    """It runs."""


@dataclass(frozen=True, slots=True)
class Ready:
    """By what, and which path or expression."""

    kind: ReadyKind = ReadyKind.PORT
    value: str = ""


class Restart(StrEnum):
    """Whether a service that has ended by itself is started again."""

    ON_FAILURE = "on-failure"
    """Unless its exit code is 0."""
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One thing that listens."""

    name: str
    port: int
    """That of slot 0."""
    short: str
    variable: str
    group: str
    command: tuple[str, ...] = ()
    """Its words; ``$NAME`` in them stands for a variable of the instance. No shell reads it."""
    listen: Listen = Listen.RESERVE
    ready: Ready = Ready()
    ready_within: int = 30
    """Seconds after which it is told that it is not ready."""
    restart: Restart = Restart.ON_FAILURE
    grace: int = 10
    """Seconds between SIGTERM and SIGKILL."""
    bases: tuple[str, ...] = ()
    """Variables of the environment that give another port in slot 0; the first that is set wins."""
    written: int = 0
    """The port in slot 0 as the project's file has it, whatever the environment says; 0 where it is not of a file."""


def number(section: Section, name: str, default: int, allowed: range) -> int:
    """A member that is a whole number in a range."""
    found: int = section.value(name, int, default)
    if found not in allowed:
        raise section.wrong(name, f"has to be {allowed[0]} to {allowed[-1]}, not {found}")
    return found


def variable(section: Section, name: str, default: str) -> str:
    """A member that is the name of a variable."""
    found: str = section.value(name, str, default)
    if VARIABLE.fullmatch(found) is None:
        raise section.wrong(name, f"{found!r} is not the name of a variable", "letters, digits and _")
    return found


def read_services(section: Section) -> tuple[Service, ...]:
    """Reads the services of a project.

    Raises:
        errors.Config: something in them is unknown or not valid, or two have one port or one variable.
    """
    found: list[Service] = []
    for name in section:
        if NAME.fullmatch(name) is None:
            raise section.wrong(name, "is not a name", "letters, digits, _ or -")
        one = section.section(name).only(*_KEYS)
        if "port" not in one:
            raise section.wrong(name, "needs a port")
        service = Service(
            name=name,
            port=number(one, "port", 0, PORTS),
            written=number(one, "port", 0, PORTS),
            short=one.value("short", str, name[:1]),
            variable=variable(one, "variable", f"{_upper(name)}_PORT"),
            group=one.value("group", str, ""),
            command=_command(one),
            listen=one.choice("listen", Listen, Listen.RESERVE),
            ready=_ready(one),
            ready_within=number(one, "ready_within", 30, _SECONDS),
            restart=one.choice("restart", Restart, Restart.ON_FAILURE),
            grace=number(one, "grace", 10, _SECONDS),
            bases=(*([variable(one, "base_variable", "")] if "base_variable" in one else []), f"{_upper(name)}_BASE_PORT"),
        )
        twin = next((other for other in found if service.port == other.port or service.variable == other.variable), None)
        if twin:
            what = "port" if service.port == twin.port else "variable"
            raise section.wrong(name, f"has the {what} of {twin.name}")
        found.append(service)
    return tuple(found)


def _upper(name: str) -> str:
    """What the variables of a service begin with."""
    upper = re.sub(r"[^A-Z0-9]", "_", name.upper())
    return upper if upper[:1].isalpha() else f"_{upper}"


def rebased(services: Iterable[Service], environ: Mapping[str, str]) -> tuple[Service, ...]:
    """The services with the ports in slot 0 that the environment gives them.

    Raises:
        errors.Config: a variable is no port, or gives two services one.
    """
    before = tuple(services)
    exported = {service.variable for service in before}  # those say which port a service has, not which it has in slot 0
    found: dict[int, Service] = {}
    said = {one.name: next((name for name in one.bases if environ.get(name) and name not in exported), "") for one in before}
    for service in before:
        name = said[service.name]
        fresh = replace(service, port=_port(name, environ[name])) if name else service
        twin = found.setdefault(fresh.port, fresh)
        if twin is not fresh:
            where = name or said[twin.name]
            what = f"{where} gives {twin.name} and {service.name} one port, {fresh.port}"
            raise errors.Config(what, hint="each needs one of its own", key=where)
    return tuple(found.values())


def _port(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) in PORTS):
        what = f"{name} is {text!r}, which is not a port"
        raise errors.Config(what, hint=f"{PORTS[0]} to {PORTS[-1]}", key=name)
    return int(text)


def _command(section: Section) -> tuple[str, ...]:
    if "command" in section and isinstance(section["command"], list):
        return section.texts("command")
    try:
        return tuple(shlex.split(section.value("command", str, "")))
    except ValueError as error:
        raise section.wrong("command", f"cannot be split into words: {str(error).lower()}") from None


def _ready(section: Section) -> Ready:
    if "ready" not in section or isinstance(section["ready"], str):
        kind = section.choice("ready", ReadyKind, ReadyKind.PORT)
        if kind in {ReadyKind.HTTP, ReadyKind.LOG}:
            raise section.wrong("ready", f"needs a value: {{{kind}: …}}")
        return Ready(kind)
    one = section.section("ready").only("http", "log")
    kinds = [kind for kind in (ReadyKind.HTTP, ReadyKind.LOG) if kind in one]
    if len(kinds) != 1:
        raise section.wrong("ready", "is port, notify, none, {http: PATH} or {log: EXPRESSION}")
    value: str = one.value(kinds[0], str, "")
    if kinds[0] is ReadyKind.HTTP and not value.startswith("/"):
        raise one.wrong("http", f"{value!r} is not a path")
    try:
        re.compile(value)
    except re.error as error:
        raise one.wrong("log", f"is not a regular expression: {error}") from None
    return Ready(kinds[0], value)
