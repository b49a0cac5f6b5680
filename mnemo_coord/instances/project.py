"""A project: what its instances consist of, by the ``mnemosyne.yaml`` at its root.

::

    project: shop                      # a name; by default that of the folder
    home: ~/.shop                      # the folder of the default instance; that of dev is ~/.shop_dev
    home_variable: SHOP_DATA_DIR       # a variable with another home
    config_variable: SHOP_CONFIG_DIR   # and one with the folder of instances.yaml
    stride: 1000                       # between the ports of two slots
    slots: 10                          # 0 to 9; 0 is that of the main checkout
    instance:
      variable: AI_INSTANCE_ID         # a slot that is asked for
      path: claude-worktrees/shop/     # the part of the path behind this is the name of a checkout
      prefer: hash                     # hash: cksum of the name; first: the first that is free
    services:
      web: {port: 8000, short: w, variable: WEB_PORT, group: app, command: python -m http.server $PORT, listen: reserve}
    environment:
      DATA_DIR: .data/{slot}           # {slot} {name} {project} {root} {ports.web} {env.OTHER}
      DATABASE: {numbered: shop}       # shop_3, or the given value with its number replaced
      DATABASE_URL: {url: "postgresql://app@localhost/{env.DATABASE}", port: postgres}
      MAILER: {singleton: mailer}      # true in the slot of the singleton only, unless given
    singletons:
      mailer: {slot: 0}
    templates:
      nginx.{slot}.conf: {from: nginx.template.conf, variables: [WEB_PORT]}
    compose: [docker-compose.yml]      # an override of them is written for each instance
    scope:
      variable: SHOP_INSTANCE          # the name under which everything is stored
      auto: SHOP_AUTO_SCOPE            # derive one from the working directory
      config: config.yaml:instance     # or read it there
      root: ~/.shop
    stores:
      orders: orders.db                # below the root, or below the root and the name
    jobs: {limit: 4, grace: 10}        # how many run at once; seconds between SIGTERM and SIGKILL

Everything is optional. Whoever reads it runs nothing of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from mnemo_coord import errors
from mnemo_coord.instances.document import Section, load
from mnemo_coord.instances.services import NAME, PORTS, VARIABLE, Service, number, read_services, rebased, variable

__all__ = ["FILE", "JobRules", "Prefer", "Project", "ScopeRules", "Template", "Value", "ValueKind", "find", "read"]

FILE: Final = "mnemosyne.yaml"
_SLOTS: Final = range(1, 1001)
_LIMITS: Final = range(1, 1001)
_SECONDS: Final = range(3601)
_KEYS: Final = (
    "project", "home", "home_variable", "config_variable", "stride", "slots", "instance", "services", "environment",
    "singletons", "templates", "compose", "scope", "stores", "jobs",
)  # fmt: skip


class Prefer(StrEnum):
    """Which slot a checkout would like."""

    HASH = "hash"
    """The one that its name hashes to (POSIX cksum), so that it is the same on every machine where it is free."""
    FIRST = "first"
    """The first that is free."""


class ValueKind(StrEnum):
    """How the value of a variable is made."""

    TEXT = "text"
    NUMBERED = "numbered"
    """The base, or what is given without its number, and the number of the slot."""
    URL = "url"
    """The template, or what is given, with the port of a service of this slot and the path of the template."""
    SINGLETON = "singleton"
    """Whether this slot is that of the singleton, unless it is given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """How one variable is made."""

    variable: str
    kind: ValueKind
    text: str
    """The template, the base, or the name of a singleton."""
    port: str
    """The service whose port goes into a URL."""
    line: int | None
    """Where it stands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A file that is written for each instance."""

    target: str
    """Relative to the project; ``{slot}`` and the like stand for what they say."""
    source: str
    """Relative to the project."""
    variables: tuple[str, ...]
    """Those that are replaced in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeRules:
    """How the name is found under which a program stores what it has."""

    variable: str = "MNEMOSYNE_INSTANCE"
    auto: str = "MNEMOSYNE_AUTO_SCOPE"
    config: str = ""
    """``file:key`` of a YAML file with the name, relative to the project."""
    root: str = ""
    """By default the data folder of this user and the name of the project."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRules:
    """How the queue of an instance is worked."""

    limit: int = 4
    """How many jobs run at once."""
    grace: int = 10
    """Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """What the instances of a project consist of."""

    name: str
    root: Path
    """The checkout that the file is in."""
    digest: str = ""
    """SHA-256 of the file, in hex digits."""
    home: str = ""
    """The folder of the default instance, as it is written; the others are named after it."""
    home_variable: str = ""
    """A variable with another such folder; empty for none."""
    config_variable: str = ""
    """A variable with the folder of instances.yaml; empty for none."""
    stride: int = 1000
    slots: int = 10
    variable: str = "MNEMOSYNE_SLOT"
    path: str = ""
    prefer: Prefer = Prefer.HASH
    services: tuple[Service, ...] = ()
    environment: tuple[Value, ...] = ()
    singletons: dict[str, int] = field(default_factory=dict)
    """The slot of each."""
    templates: tuple[Template, ...] = ()
    compose: tuple[str, ...] = ()
    """Compose files, relative to the project."""
    scope: ScopeRules = ScopeRules()
    stores: dict[str, str] = field(default_factory=dict)
    jobs: JobRules = JobRules()

    def service(self, name: str) -> Service:
        """A service by its name or its short one.

        Raises:
            errors.NotFound: there is none; the hint has those that there are.
        """
        for one in self.services:
            if name in {one.name, one.short}:
                return one
        known = ", ".join(one.name for one in self.services) or "none"
        raise errors.NotFound(f"{self.name} has no service {name!r}", hint=f"known are {known}", service=name)

    def ports(self, slot: int) -> dict[str, int]:
        """The port of each service in a slot; some may be above 65535."""
        return {service.name: service.port + slot * self.stride for service in self.services}


def find(start: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> Project:
    """The project around a folder, by default the current one.

    Raises:
        errors.NotFound: neither it nor a folder above has a ``mnemosyne.yaml``.
        errors.Config: see `read`.
    """
    here = Path(os.path.realpath(os.getcwd() if start is None else start))
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return read(folder / FILE, environ)
    raise errors.NotFound(
        f"{here}: is in no project with a {FILE}", hint="`mnemosyne init --project` writes one", path=str(here)
    )


def read(path: Path, environ: Mapping[str, str] | None = None) -> Project:
    """Reads a project's file. Ports in slot 0 may be overridden by the environment, by default that of this process.

    Raises:
        errors.Config: something in it is unknown or not valid; file, line and key are in the message. Or a variable is no port.
    """
    whole = load(path).only(*_KEYS)
    folder = path.parent.name
    name = whole.value("project", str, folder if NAME.fullmatch(folder) else "project")
    if NAME.fullmatch(name) is None:
        raise whole.wrong("project", f"{name!r} is not a name", "1 to 64 letters, digits, _ or -")
    instance = whole.section("instance").only("variable", "path", "prefer")
    services = rebased(read_services(whole.section("services")), os.environ if environ is None else environ)
    singletons = _singletons(whole.section("singletons"))
    return Project(
        name=name,
        root=path.parent,
        digest=whole.digest,
        home=_home(whole),
        home_variable=variable(whole, "home_variable", "") if "home_variable" in whole else "",
        config_variable=variable(whole, "config_variable", "") if "config_variable" in whole else "",
        stride=number(whole, "stride", 1000, PORTS),
        slots=number(whole, "slots", 10, _SLOTS),
        variable=variable(instance, "variable", "MNEMOSYNE_SLOT"),
        path=instance.value("path", str, ""),
        prefer=instance.choice("prefer", Prefer, Prefer.HASH),
        services=services,
        environment=_environment(whole.section("environment"), {service.name for service in services}, set(singletons)),
        singletons=singletons,
        templates=_templates(whole.section("templates")),
        compose=_compose(whole),
        scope=_scope(whole.section("scope")),
        stores=_stores(whole.section("stores")),
        jobs=_jobs(whole.section("jobs").only("limit", "grace")),
    )


def _home(whole: Section) -> str:
    found: str = whole.value("home", str, "")
    if "home" in whole and (not found.isprintable() or not found.strip(" /.~")):
        raise whole.wrong("home", f"{found!r} is not a folder for one project", f"such as ~/.{whole.path.parent.name}")
    return found


def _singletons(section: Section) -> dict[str, int]:
    for name in section:
        if NAME.fullmatch(name) is None:
            raise section.wrong(name, "is not a name", "letters, digits, _ or -")
    return {name: number(section.section(name).only("slot"), "slot", 0, range(1000)) for name in section}


def _environment(section: Section, services: set[str], singletons: set[str]) -> tuple[Value, ...]:
    return tuple(_value(section, name, services, singletons) for name in section)


def _value(section: Section, name: str, services: set[str], singletons: set[str]) -> Value:
    if VARIABLE.fullmatch(name) is None:
        raise section.wrong(name, "is not the name of a variable", "letters, digits and _")
    kind, text, port = ValueKind.TEXT, "", ""
    given: Any = section[name]
    if isinstance(given, (str, int)) and not isinstance(given, bool):
        text = str(given)
    else:
        one = section.section(name).only("numbered", "url", "port", "singleton")
        kinds = [word for word in (ValueKind.NUMBERED, ValueKind.URL, ValueKind.SINGLETON) if word in one]
        if len(kinds) != 1:
            raise section.wrong(name, "is either a text, numbered, a url, or a singleton")
        kind, text, port = kinds[0], one.value(kinds[0], str, ""), one.value("port", str, "")
        if kind is ValueKind.SINGLETON and text not in singletons:
            raise one.wrong("singleton", f"there is no singleton {text!r}")
        if (kind is ValueKind.URL) != bool(port) or (port and port not in services):
            raise one.wrong(
                "port" if port else None, f"there is no service {port!r}" if port else "needs the port of a service"
            )
    return Value(variable=name, kind=kind, text=text, port=port, line=section.line(name))


def _templates(section: Section) -> tuple[Template, ...]:
    found = []
    for target in section:
        one = section.section(target).only("from", "variables")
        source = one.value("from", str, "")
        for path, where, name in ((target, section, target), (source, one, "from")):
            if not _is_below(path):
                raise where.wrong(name, f"{path!r} is not a path in the project")
        if source == target:
            raise section.wrong(target, "would be written over its own template")
        found.append(Template(target=target, source=source, variables=one.texts("variables")))
    return tuple(found)


def _compose(whole: Section) -> tuple[str, ...]:
    for path in whole.texts("compose"):
        if not _is_below(path):
            raise whole.wrong("compose", f"{path!r} is not a path in the project")
    return whole.texts("compose")


def _is_below(path: str) -> bool:
    return bool(path) and not path.startswith("/") and ".." not in path.split("/") and path.isprintable()


def _scope(section: Section) -> ScopeRules:
    section.only("variable", "auto", "config", "root")
    rules = ScopeRules()
    return ScopeRules(
        variable=variable(section, "variable", rules.variable),
        auto=variable(section, "auto", rules.auto),
        config=section.value("config", str, ""),
        root=section.value("root", str, ""),
    )


def _jobs(section: Section) -> JobRules:
    rules = JobRules()
    return JobRules(limit=number(section, "limit", rules.limit, _LIMITS), grace=number(section, "grace", rules.grace, _SECONDS))


def _stores(section: Section) -> dict[str, str]:
    found = {}
    for name in section:
        place: str = section.value(name, str, "")
        if not _is_below(place):
            raise section.wrong(name, f"{place!r} is not a path below the root of the stores")
        found[name] = place
    return found
