"""What a compose service publishes: every way to write it, and the host port that it has in an instance.

The grammar is that of the compose specification: ``[[ADDRESS:]HOST:]TARGET[/PROTOCOL]`` with single ports or ranges, or a
mapping with the members ``target``, ``published``, ``host_ip`` and ``protocol``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mnemo_coord.instances.compose_files import Words

__all__ = ["Published", "published", "short"]

_SHORT: Final = re.compile(
    r"(?:(?:(?P<address>[^/]*?):)?(?P<host>[0-9]*(?:-[0-9]+)?):)?(?P<target>[0-9]+(?:-[0-9]+)?)(?:/(?P<protocol>[a-z]+))?",
    re.ASCII,
)
_LONG: Final = ("target", "published", "host_ip", "protocol")
_NUMBER: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One entry of the ports of a compose service, as it is in an instance."""

    entry: Any
    """What stands in the file."""
    moved: Any
    """What the override says; the same where nothing is moved."""
    address: str
    """The host's address that it is bound to; empty for all of them."""
    host: str
    """The host's port, or a range of them; empty where Docker chooses one."""
    target: str
    """The port in the container, or a range of them."""
    protocol: str
    fixed: bool
    """Whether other instances would get the same."""


def published(entry: Any, moves: Mapping[int, int], words: Words) -> Published | None:
    """Takes an entry apart; None where Compose would refuse it. ``moves`` are the ports of slot 0 and those of this slot."""
    here, there = _parts(entry, words), _parts(entry, words.swapped)
    if here is None:
        return None
    address, host, target, protocol = here
    old = int(host) if _NUMBER.fullmatch(host) else 0
    literal = "$" not in (" ".join(map(str, entry.values())) if isinstance(entry, dict) else str(entry))
    moving = literal and old in moves
    return Published(
        entry=entry,
        moved=_moved(entry, here, moves[old]) if moving else entry,
        address=address,
        host=str(moves[old]) if moving else host,
        target=target,
        protocol=protocol or "tcp",
        fixed=bool(host) and not moving and not _chosen(host, target) and there is not None and here[:2] == there[:2],
    )


def _parts(entry: Any, words: Words) -> tuple[str, str, str, str] | None:
    """The address, host port, target and protocol, with variables filled in."""
    if isinstance(entry, dict):
        target, host, address, protocol = (words.filled(entry.get(name) or "") for name in _LONG)
        found = _SHORT.fullmatch(f"{host}:{target}")
    elif isinstance(entry, str | int) and not isinstance(entry, bool):
        found = _SHORT.fullmatch(words.filled(entry))
        address, protocol = (found["address"] or "", found["protocol"] or "") if found else ("", "")
    else:
        return None
    if found is None:
        return None
    host = found["host"] or ""
    return address.strip("[]"), "" if host.strip("0") == "" else host, found["target"], protocol


def _chosen(host: str, target: str) -> bool:
    """Whether Docker chooses a free port of a range, which it does for a single port in the container."""
    return "-" in host and "-" not in target


def _moved(entry: Any, parts: tuple[str, str, str, str], port: int) -> Any:
    address, host, target, protocol = parts
    if int(host) == port:
        return entry
    if isinstance(entry, dict):
        return {**entry, "published": str(port)}
    return _written(address, str(port), target, protocol)


def _written(address: str, host: str, target: str, protocol: str) -> str:
    address = f"[{address}]" if ":" in address and address[:1] not in {"[", "$"} else address
    where = f"{address}:{host}:" if address else f"{host}:" if host else ""
    return f"{where}{target}" + (f"/{protocol}" if protocol else "")


def short(entry: Any) -> Any:
    """The short form of an entry, where that says all of it: podman-compose (1.6) reads no other below ``!override``."""
    if not isinstance(entry, dict) or not set(entry) <= {*_LONG, "mode"} or entry.get("mode", "ingress") != "ingress":
        return entry
    target, host, address, protocol = (str(entry.get(name) or "") for name in _LONG)
    return _written(address, host, target, protocol)
