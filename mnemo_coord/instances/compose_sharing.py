"""What instances would still have in common, for all their compose files say: told to a person, with what to do about it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mnemo_coord.instances.compose_files import ComposeFile, Words, extends, external, listed, mapping, origin
from mnemo_coord.instances.compose_ports import Published

__all__ = ["Shared", "shared"]

_SOCKETS: Final = {"/var/run/docker.sock", "/run/docker.sock"}
_SYSTEM: Final = re.compile(
    r"/etc/(?:localtime|timezone|hosts|resolv\.conf|passwd|group|os-release|machine-id|ssl|pki|ca-certificates)(?:/.*)?"
    r"|/usr/share/(?:zoneinfo|ca-certificates)(?:/.*)?|/lib/modules|/proc|/sys(?:/.*)?"
)
"""What a machine has once, and nobody minds who reads it."""
_OWN_NETWORK: Final = "give it a network of its own, and publish its ports"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """One thing that would be the same in two instances."""

    file: str
    """The compose file that it stands in, relative to the project."""
    part: str
    """``services.web``, ``networks.back`` and the like."""
    what: str
    hint: str

    @property
    def line(self) -> str:
        """All of it, for a person."""
        return f"{self.file}: {self.part}: {self.what} ({self.hint})"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """The same, before it is known which file it stands in."""

    key: str
    what: str
    hint: str
    entry: Any = None


def shared(
    files: Sequence[ComposeFile], whole: Mapping[str, Any], published: Mapping[str, Sequence[Published]], words: Words
) -> tuple[Shared, ...]:
    """Everything that instances would have in common.

    ``whole`` are the files put together, ``published`` the ports of each service.
    """
    found = [*_included(files), *_extended(files)]
    folder = os.path.dirname(files[0].name) if files else ""
    for name, service in mapping(whole.get("services")).items():
        all_of_it = _service(mapping(service), published.get(name, ()), words, folder)
        found += [_placed(files, "services", name, one) for one in all_of_it]
    for section in ("networks", "volumes", "configs", "secrets"):
        for name, one in mapping(whole.get(section)).items():
            found += [_placed(files, section, name, thing) for thing in _top(section, name, mapping(one), words)]
    return tuple(found)


def _placed(files: Sequence[ComposeFile], section: str, name: str, one: _Found) -> Shared:
    file = origin(files, section, name, one.key, one.entry)
    return Shared(file=file, part=f"{section}.{name}", what=one.what, hint=one.hint)


# Files that are not read


def _included(files: Sequence[ComposeFile]) -> Iterator[Shared]:
    known = {os.path.normpath(file.name) for file in files}
    for file in files:
        for entry in listed(file.document.get("include")):
            path = mapping(entry).get("path", entry)
            for one in listed(path) or [path]:
                if os.path.normpath(os.path.join(os.path.dirname(file.name), str(one))) not in known:
                    yield Shared(file=file.name, part="include", what=f"{one} is not looked into", hint="list it in compose:")


def _extended(files: Sequence[ComposeFile]) -> Iterator[Shared]:
    known = {os.path.normpath(file.name) for file in files}
    for file in files:
        for name, service in mapping(file.document.get("services")).items():
            path, parent = extends(file, mapping(service))
            if parent and path not in known:
                what = f"extends {parent} of {path}, which is not looked into"
                yield Shared(file=file.name, part=f"services.{name}", what=what, hint="list that file in compose:")


# Services


def _service(service: Mapping[str, Any], ports: Sequence[Published], words: Words, folder: str) -> Iterator[_Found]:
    yield from _names(service, words)
    yield from _namespaces(service, words)
    yield from _ports(ports)
    yield from _mounts(service, words, folder)
    yield from _devices(service, words)
    yield from _addresses(service, words)
    yield from _strangers(service, words)


def _names(service: Mapping[str, Any], words: Words) -> Iterator[_Found]:
    container, image = service.get("container_name"), service.get("image")
    if container is not None and "$" in str(container) and words.fixed(container):  # without one it is taken away
        what = f"its container is called {words.filled(container)} in every instance"
        yield _Found(key="container_name", what=what, hint="leave it out, or use ${COMPOSE_PROJECT_NAME} in it")
    if image is not None and service.get("build") is not None and words.fixed(image):
        what = f"every instance builds the image {words.filled(image)}"
        yield _Found(key="image", what=what, hint="leave the image out, or use ${COMPOSE_PROJECT_NAME} in its name")


def _namespaces(service: Mapping[str, Any], words: Words) -> Iterator[_Found]:
    for key in ("network_mode", "pid", "ipc", "uts"):
        said = words.filled(service.get(key) or "")
        if said == "host":
            hint = _OWN_NETWORK if key == "network_mode" else "leave it out"
            yield _Found(key=key, what=f"{key}: host is the machine's own", hint=hint)
        elif said.startswith("container:") and words.fixed(service[key]):
            yield _Found(key=key, what=f"{key}: {said} is one container", hint="use service:NAME instead")


def _ports(ports: Sequence[Published]) -> Iterator[_Found]:
    for one in ports:
        if one.fixed:
            single = "-" not in one.host
            told = "port" if single else "ports"
            hint = f"add a service with port {one.host}" if single else "publish them one by one, each the port of a service"
            if "$" in str(one.entry):
                hint = "take it from a variable of a service"
            yield _Found(key="ports", what=f"{told} {one.host} of the host", hint=f"{hint} in mnemosyne.yaml", entry=one.entry)


def _mounts(service: Mapping[str, Any], words: Words, folder: str) -> Iterator[_Found]:
    by_target = {}
    for entry in listed(service.get("volumes")):
        here, there = _mount(entry, words), _mount(entry, words.swapped)
        if here and there:
            by_target[here[1]] = (here, there, entry)  # of two mounts in one place the later one counts
    for (source, _, reading), (other, *_), entry in by_target.values():
        said = _path(source, folder, reading=reading) if source == other else None
        if said:
            yield _Found(key="volumes", what=said[0], hint=said[1], entry=entry)


def _mount(entry: Any, words: Words) -> tuple[str, str, bool] | None:
    """The path on the host, where it goes, and whether it is only read; None for what is no path."""
    if isinstance(entry, dict):
        source, target = (words.filled(entry.get(name) or "") for name in ("source", "target"))
        bound, reading = entry.get("type") == "bind", entry.get("read_only") is True
    else:
        source, _, rest = words.filled(entry).partition(":")
        target, _, mode = rest.partition(":")
        bound, reading = source[:1] in {"/", ".", "~"} and bool(target), "ro" in mode.split(",")
    return (source if bound else "", target, reading) if target else None


def _path(source: str, folder: str, *, reading: bool) -> tuple[str, str] | None:
    """What is to be said of a path on the host; None where each checkout has its own."""
    if source in _SOCKETS:
        return f"{source} is Docker itself: what is started through it belongs to no instance", "leave it out where you can"
    if source.startswith(("/", "~")):
        system = reading and _SYSTEM.fullmatch(source)
        return None if system else (f"{source} of the host", "use a path in the project, such as ./data, or a volume")
    if source and os.path.normpath(os.path.join(folder, source)).startswith(".."):
        return f"{source} lies outside the checkout", "use a path in the project"
    return None


def _devices(service: Mapping[str, Any], words: Words) -> Iterator[_Found]:
    for entry in listed(service.get("devices")):
        source = mapping(entry).get("source", entry)
        if words.fixed(source):
            path = words.filled(source).partition(":")[0]
            yield _Found(key="devices", what=f"the device {path}", hint="only one instance can use it", entry=entry)


def _addresses(service: Mapping[str, Any], words: Words) -> Iterator[_Found]:
    for network, said in mapping(service.get("networks")).items():
        for key in ("ipv4_address", "ipv6_address", "mac_address"):
            value = mapping(said).get(key)
            if value is not None and words.fixed(value):
                what = f"the address {words.filled(value)} in {network}"
                yield _Found(key="networks", what=what, hint="leave it out: a service is found by its name")


def _strangers(service: Mapping[str, Any], words: Words) -> Iterator[_Found]:
    for entry in listed(service.get("external_links")):
        if words.fixed(entry):
            what = f"the container {words.filled(entry).partition(':')[0]}, which is not of this project"
            yield _Found(key="external_links", what=what, hint="have it as a service", entry=entry)
    for entry in listed(service.get("volumes_from")):
        if str(entry).startswith("container:") and words.fixed(entry):
            what = f"the volumes of the container {words.filled(entry).split(':')[1]}"
            yield _Found(key="volumes_from", what=what, hint="have it as a service", entry=entry)


# Networks, volumes, configs, secrets


def _top(section: str, name: str, one: Mapping[str, Any], words: Words) -> Iterator[_Found]:
    called = one.get("name") or mapping(one.get("external")).get("name", name)
    if external(one):
        if words.fixed(called):
            what = f"{words.filled(called)} is made elsewhere (external)"
            yield _Found(key="external", what=what, hint="leave external out, or use ${COMPOSE_PROJECT_NAME} in its name")
        return
    if "$" in str(called) and words.fixed(called):
        what = f"it is called {words.filled(called)} in every instance"
        yield _Found(key="name", what=what, hint="leave the name out, or use ${COMPOSE_PROJECT_NAME} in it")
    if section == "networks":
        yield from _network(one, words)
    elif section == "volumes":
        yield from _volume(one, words)


def _network(one: Mapping[str, Any], words: Words) -> Iterator[_Found]:
    for entry in listed(mapping(one.get("ipam")).get("config")):
        subnet = mapping(entry).get("subnet")
        if subnet is not None and words.fixed(subnet):
            yield _Found(key="ipam", what=f"the subnet {words.filled(subnet)}", hint="leave it out: Docker chooses a free one")
    options = mapping(one.get("driver_opts"))
    for key in ("com.docker.network.bridge.name", "parent"):
        if key in options and words.fixed(options[key]):
            yield _Found(key="driver_opts", what=f"{key}: {words.filled(options[key])}", hint="leave it out")


def _volume(one: Mapping[str, Any], words: Words) -> Iterator[_Found]:
    device = mapping(one.get("driver_opts")).get("device")
    if device is not None and words.fixed(device) and words.filled(device) not in {"", "tmpfs"}:
        yield _Found(key="driver_opts", what=f"{words.filled(device)} of the host", hint="leave driver_opts out")
