"""Compose files that were not written for several instances: what differs between them is written into an override.

Compose puts lists of several files one behind the other, so a second port would be published beside the first. The override
therefore has the tags ``!override`` and ``!reset`` (Docker Compose 2.24.4 and later, podman-compose 1.3 and later). Names that
are fixed are taken away: Compose then makes them from the name of the project, which is another one in each instance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mnemo_coord.instances import compose_files, environment, templates
from mnemo_coord.instances.compose_files import OVERRIDE, RESET, ComposeFile, Tagged, Words, external, listed, mapping
from mnemo_coord.instances.compose_ports import Published, published, short
from mnemo_coord.instances.compose_sharing import Shared, shared
from mnemo_coord.instances.project import Project
from mnemo_coord.instances.slots import Slot

__all__ = ["Compose", "Port", "Shared", "override", "read", "write", "written", "written_already"]

_PLAIN: Final = re.compile(r"(?!(?:true|false|null|yes|no|on|off|y|n)\Z)[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII | re.IGNORECASE)
_NAMED: Final = ("networks", "volumes", "configs", "secrets")


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """A port of the host that a compose service gets in an instance."""

    service: str
    """The compose service."""
    address: str
    """The host's address that it is bound to; empty for all of them."""
    host: str
    """A port or a range; empty where Docker chooses one."""
    target: str
    """The port or range in the container."""
    protocol: str

    @property
    def at(self) -> str:
        """The address and the port of the host, for a person."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.host or '?'}" if address else self.host or "?"


@dataclass(frozen=True, kw_only=True, slots=True)
class Compose:
    """The compose files of a project, for one instance."""

    files: tuple[ComposeFile, ...]
    whole: dict[str, Any]
    """All of them put together."""
    moves: dict[int, int]
    """The ports of services as the project's file has them, and what they are in this slot."""
    words: Words

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """The compose services."""
        return {name: mapping(service) for name, service in mapping(self.whole.get("services")).items()}

    def published(self, service: Mapping[str, Any]) -> list[Published]:
        """What a compose service publishes."""
        found = (published(entry, self.moves, self.words) for entry in _once(listed(service.get("ports"))))
        return [one for one in found if one]

    def ports(self) -> tuple[Port, ...]:
        """The ports of the host that every compose service gets."""
        return tuple(
            Port(service=name, address=one.address, host=one.host, target=one.target, protocol=one.protocol)
            for name, service in self.services.items()
            for one in self.published(service)
        )

    def shared(self) -> tuple[Shared, ...]:
        """What instances would still have in common."""
        taken = {name: self.published(service) for name, service in self.services.items()}
        return shared(self.files, self.whole, taken, self.words)


def read(project: Project, slot: Slot, values: Mapping[str, str], surroundings: Mapping[str, str]) -> Compose:
    """Reads the compose files of a project. ``values`` are the variables of the instance.

    Raises:
        errors.Config: one is not there, is not YAML, or is too large.
    """
    files = compose_files.read(project)
    elsewhere = replace(project, root=Path("/elsewhere"))
    other = environment.variables(elsewhere, slot.slot + 1, f"{slot.name}-", project.ports(slot.slot + 1), surroundings)
    return Compose(
        files=files,
        whole=compose_files.whole(files),
        moves={service.written or service.port: slot.ports[service.name] for service in project.services},
        words=Words(
            here={**surroundings, "PWD": str(project.root), **values}, other={**surroundings, "PWD": "/elsewhere", **other}
        ),
    )


# The override


def override(compose: Compose) -> dict[str, Any]:
    """What an instance needs to have otherwise than its compose files say; empty where they are right as they are."""
    services = {name: _service(compose, service) for name, service in compose.services.items()}
    found = {"services": services} | {
        section: {name: _unnamed(one, "name") for name, one in mapping(compose.whole.get(section)).items() if not external(one)}
        for section in _NAMED
    }
    kept = {section: {name: one for name, one in ones.items() if one} for section, ones in found.items()}
    return {section: ones for section, ones in kept.items() if ones}


def _service(compose: Compose, service: Mapping[str, Any]) -> dict[str, Tagged]:
    entries = _once(listed(service.get("ports")))
    moved = {_key(one.entry): one.moved for one in compose.published(service)}
    wanted = [moved.get(_key(entry), entry) for entry in entries]
    ports = {"ports": Tagged(OVERRIDE, [short(entry) for entry in wanted])} if wanted != entries else {}
    return ports | _unnamed(service, "container_name")


def _unnamed(one: Any, key: str) -> dict[str, Tagged]:
    name = mapping(one).get(key)
    return {key: Tagged(RESET)} if name is not None and "$" not in str(name) else {}


def _once(entries: Sequence[Any]) -> list[Any]:
    """Compose drops an entry that it has already."""
    return list({_key(entry): entry for entry in entries}.values())


def _key(entry: Any) -> str:
    return json.dumps(entry, sort_keys=True)


def written(project: Project, slot: int, compose: Compose) -> str:
    """The text of the override of a slot. It names a service where nothing is to be changed: Compose takes no empty file."""
    head = f"# Generated by `mnemosyne render` from {', '.join(project.compose)} for slot {slot}: changes are lost.\n"
    nothing: dict[str, Any] = {"services": {name: {} for name in list(compose.services)[:1]}}
    return head + "".join(f"{line}\n" for line in _lines(override(compose) or nothing, ""))


def _lines(document: Mapping[str, Any], indent: str) -> list[str]:
    found: list[str] = []
    for name, value in document.items():
        key = indent + (name if _PLAIN.fullmatch(name) else _quoted(name))
        if not isinstance(value, Tagged):
            found += [f"{key}:", *_lines(value, f"{indent}  ")] if value else [f"{key}: {{}}"]
        elif value.tag == RESET:
            found.append(f"{key}: {RESET} null")
        else:
            found += [f"{key}: {OVERRIDE}", *(f"{indent}  - {_quoted(item)}" for item in value.value)]
    return found


def _quoted(value: Any) -> str:
    """JSON, which is YAML; as the pairs of surrogates in it are not, only what cannot be seen is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def written_already(project: Project, slot: int, compose: Compose) -> Path | None:
    """The override of a slot; None where it is not there, or does not say what it would say now."""
    path = environment.compose_files(project, slot)[-1]
    try:
        return path if path.read_bytes() == written(project, slot, compose).encode() else None
    except OSError:
        return None


def write(project: Project, slot: int, compose: Compose) -> Path:
    """Writes the override of a slot beside the first compose file, whole or not at all, and returns it.

    Raises:
        errors.State: it cannot be written.
    """
    *first, target = environment.compose_files(project, slot)
    templates.put(target, written(project, slot, compose), like=first[0])
    return target
