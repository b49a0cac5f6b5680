"""Slots: which checkout has which ports, for every project of this user on this machine.

::

    <data>/slots.json    {"version":1,"slots":[{"project":…,"root":…,"label":…,"slot":…,"ports":{…},"at":…}]}  (a ledger)

A slot is allocated once and stored: a checkout keeps it, whatever comes later. A slot that is preferred is given where its
ports are free of other slots, of this project and of others, and nobody listens on them; otherwise the next one is, and that
is said.
What belongs to a checkout that is gone, and on whose ports nobody listens, is free again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from mnemo_coord import errors
from mnemo_coord.disk.clock import SystemClock, rfc3339
from mnemo_coord.instances.ledger import Ledger, data_dir
from mnemo_coord.instances.project import Prefer, Project

__all__ = ["Allocation", "Checkout", "Listener", "Slot", "Slots", "choose", "cksum", "listeners", "recognise", "stored_slot"]

_HIGHEST: Final = 65535
_CRC: Final = 0x04C11DB7


def cksum(text: str) -> int:
    """What POSIX cksum prints for a text: a CRC of its bytes and of their number."""
    data = text.encode()
    length, ending = len(data), b""
    while length:
        ending += bytes([length & 0xFF])
        length >>= 8
    crc = 0
    for byte in data + ending:
        crc ^= byte << 24
        for _ in range(8):
            crc = ((crc << 1) ^ (_CRC if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc ^ 0xFFFFFFFF


# Who asks


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkout:
    """A checkout of a project, and what it would like."""

    root: Path
    label: str
    """What tells instances of one checkout apart: empty, or the slot that was asked for."""
    name: str
    """Of the checkout; that of the project for the main one."""
    preferred: int
    source: str
    """Where that came from: ``variable``, ``path``, ``default`` or ``name``."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """Those that are asked for one by one, by the names of their services; the others follow from the slot."""
    entry: bool = False
    """Whether it is an entry of an instances.yaml, which the label names: the same one wherever its root is."""


def recognise(project: Project, environ: Mapping[str, str], folder: Path) -> Checkout:
    """Which instance of a project is meant here.

    Raises:
        errors.Config: the variable is set to something else than the number of a slot.
    """
    asked = environ.get(project.variable, "")
    if asked:
        if not asked.isascii() or not asked.isdecimal() or int(asked) >= project.slots:
            what = f"{project.variable} is {asked!r}, which is not a slot"
            raise errors.Config(what, hint=f"0 to {project.slots - 1}", key=project.variable)
        return Checkout(root=project.root, label=str(int(asked)), name=asked, preferred=int(asked), source="variable")
    name = _name_in(str(folder), project.path)
    if name is None:
        return Checkout(root=project.root, label="", name=project.name, preferred=0, source="default")
    others = max(1, project.slots - 1)
    preferred = cksum(name) % others + 1 if project.prefer is Prefer.HASH else 1
    return Checkout(root=project.root, label="", name=name, preferred=preferred, source="path")


def _name_in(folder: str, marker: str) -> str | None:
    """The part of a path behind the marker, such as ``claude-worktrees/shop/``."""
    inner = f"/{marker.strip('/')}/"
    if not marker.strip("/") or inner not in f"{folder}/":
        return None
    return f"{folder}/".partition(inner)[2].partition("/")[0] or None


# What there is


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A slot that a checkout has."""

    project: str
    root: str
    label: str
    name: str
    slot: int
    ports: dict[str, int]
    at: str

    @classmethod
    def from_body(cls, body: Any) -> Self:
        """Reads one back.

        Raises:
            ValueError: it is none.
        """
        texts = ("project", "root", "label", "name", "at")
        sound = isinstance(body, dict) and all(type(body.get(name)) is str for name in texts) and type(body.get("slot")) is int
        if (
            not sound
            or not isinstance(body.get("ports"), dict)
            or any(type(port) is not int for port in body["ports"].values())
        ):
            raise ValueError("not a slot")
        return cls(**{name: body[name] for name in cls.__slots__})


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """Who listens on a port."""

    port: int
    address: str
    pid: int | None
    """None where the system does not say."""
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """The slot of a checkout."""

    slot: Slot
    fresh: bool
    """Whether it was allocated just now."""
    passed_over: tuple[str, ...]
    """Why it is not the preferred one, a line for each slot that was not free."""
    heard: tuple[str, ...] = ()
    """Who listens on ports that were asked for one by one."""


def listeners() -> dict[int, Listener]:
    """Who listens on which TCP port, on any address of this machine."""
    import psutil

    found = {}
    with suppress(psutil.Error, OSError):
        for one in psutil.net_connections(kind="tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr:
                found[one.laddr.port] = Listener(
                    port=one.laddr.port, address=one.laddr.ip, pid=one.pid, command=_command(one.pid)
                )
    return found


def _command(pid: int | None) -> str:
    import psutil

    with suppress(psutil.Error, OSError):
        return psutil.Process(pid).name() if pid else ""
    return ""


def choose(
    project: Project,
    preferred: int,
    others: Iterable[Slot],
    listening: Mapping[int, Listener],
    asked: Mapping[str, int] | None = None,
    *,
    entry: bool = False,
) -> tuple[int, tuple[str, ...]]:
    """The slot to give, and why not each that was tried before. A main checkout may take any, others all but 0.

    ``asked`` are ports that are wanted whatever the slot; whoever listens there is the business of who asks. An ``entry`` and
    another instance of its project never have one number, though the ports of both would be free.

    Raises:
        errors.Config: a port of the preferred slot would be above 65535.
        errors.Conflict: none is free, or another slot has a port that is asked for.
    """
    slots, fixed = list(others), dict(asked or {})
    taken = {port: slot for slot in slots for port in slot.ports.values()}
    numbers = {one.slot: one for one in slots if one.project == project.name and (entry or one.label.startswith("/"))}
    _refuse_taken(fixed, taken)
    reasons: list[str] = []
    for slot in _order(preferred, project.slots):
        ports = {name: port for name, port in project.ports(slot).items() if name not in fixed}
        high = next((name for name, port in ports.items() if port > _HIGHEST), None)
        if high and slot == preferred:
            what = f"slot {slot} would give {high} the port {ports[high]}, above {_HIGHEST}"
            raise errors.Config(what, hint="lower its base port or the stride", key=f"services.{high}.port")
        why = "a port is above 65535" if high else _why_not(ports, fixed, taken, listening)
        if why is None and slot in numbers:
            why = f"is that of {numbers[slot].name}, in {numbers[slot].root}"
        if why is None:
            return slot, tuple(reasons)
        reasons.append(f"slot {slot}: {why}")
    raise errors.Conflict(
        f"no slot of {project.name} is free: {'; '.join(reasons)}", hint="`mnemosyne slots` shows who has them", holder=None
    )


def _order(preferred: int, slots: int) -> list[int]:
    first = 0 if preferred == 0 else 1
    rest = [slot for slot in range(first, slots) if slot != preferred]
    return [preferred, *(slot for slot in rest if slot > preferred), *(slot for slot in rest if slot < preferred)]


def _why_not(
    ports: Mapping[str, int], fixed: Mapping[str, int], taken: Mapping[int, Slot], listening: Mapping[int, Listener]
) -> str | None:
    for name, port in ports.items():
        if port in fixed.values():
            return f"{name}'s port {port} is asked for another service"
        if port in taken:
            return f"{name}'s port {port} is that of {_told(taken[port])}"
        if port in listening:
            return f"{name}'s port {port} is used by {_who(listening[port])}"
    return None


def _refuse_taken(fixed: Mapping[str, int], taken: Mapping[int, Slot]) -> None:
    for name, port in fixed.items():
        if port in taken:
            what = f"{name}'s port {port} is that of {_told(taken[port])}"
            raise errors.Conflict(what, hint="`mnemosyne slots` shows which are taken", holder=None, service=name)


def _told(slot: Slot) -> str:
    return f"{slot.project}, slot {slot.slot}, in {slot.root}"


def _who(one: Listener) -> str:
    return f"process {one.pid} ({one.command})" if one.pid else "another user's process"


class Slots:
    """The slots of this user."""

    def __init__(self, folder: Path | None = None, *, seen: Callable[[], dict[int, Listener]] = listeners) -> None:
        where = data_dir() if folder is None else folder
        self._ledger = Ledger("slots", Slot.from_body, "every checkout then gets its slot anew", where)
        self._seen = seen

    def all(self) -> list[Slot]:
        """Every slot that is taken. Makes nothing.

        Raises:
            errors.State: the file cannot be read, or is damaged.
        """
        return self._ledger.all()

    def allocate(self, project: Project, checkout: Checkout, beside: Iterable[Slot] = ()) -> Allocation:
        """The slot of a checkout: the one that it has, or a new one, stored. What is ``beside`` is taken without being stored.

        Raises:
            errors.Conflict: none is free, or another has a port that is asked for.
            errors.Config: the ports would be above 65535.
            errors.TimedOut: another process holds the registry of slots.
            errors.State: it cannot be read or written.
        """
        with self._ledger.changing() as known:
            inherited = next((slot for slot in known if _is_asked_for(slot, project, checkout)), None)
            if inherited:
                return Allocation(slot=inherited, fresh=False, passed_over=())
            mine = sorted((slot for slot in known if _is_of(slot, checkout)), key=lambda slot: slot.label != checkout.label)
            own = mine[0] if mine else None
            if own is not None and len(mine) == 1 and _says(own, project, checkout):
                return Allocation(slot=own, fresh=False, passed_over=())
            listening = self._seen()
            kept = [slot for slot in known if slot not in mine and not _is_over(slot, listening)]
            # Its services changed: its number stays where it can, and who listens there is its own.
            theirs = set(own.ports.values()) if own else set()
            heard = {port: one for port, one in listening.items() if port not in theirs}
            others = _with(kept, list(beside))
            preferred = own.slot if own else checkout.preferred
            number, passed_over = choose(project, preferred, others, heard, checkout.ports, entry=checkout.entry)
            slot = Slot(
                project=project.name,
                root=str(checkout.root),
                label=checkout.label,
                name=checkout.name,
                slot=number,
                ports=_ports(project, number, checkout),
                at=rfc3339(SystemClock().wall_ns()),
            )
            known[:] = [*kept, slot]
            told = [
                f"{name}'s port {port} is used by {_who(heard[port])}" for name, port in checkout.ports.items() if port in heard
            ]
            return Allocation(slot=slot, fresh=True, passed_over=passed_over, heard=tuple(told))

    def release(self, root: Path, label: str | None = None) -> list[Slot]:
        """Gives back what a checkout has, or one of its slots, and returns it."""
        with self._ledger.changing() as known:
            given = [slot for slot in known if slot.root == str(root) and label in {None, slot.label}]
            known[:] = [slot for slot in known if slot not in given]
            return given


def stored_slot(project: Project, checkout: Checkout, known: Iterable[Slot]) -> Slot | None:
    """The one of these slots that a checkout has; None where it has none yet."""
    own = [slot for slot in known if slot.project == project.name]
    asked = next((slot for slot in own if _is_asked_for(slot, project, checkout)), None)
    return asked or next((slot for slot in own if _is_of(slot, checkout)), None)


def _is_of(slot: Slot, checkout: Checkout) -> bool:
    if checkout.entry and slot.label == checkout.label:
        return True  # a person has given it another workspace
    if checkout.entry and slot.label.startswith("/"):
        return slot.root == str(checkout.root)  # the file with the entry is another one now
    return (slot.root, slot.label) == (str(checkout.root), checkout.label)


def _is_asked_for(slot: Slot, project: Project, checkout: Checkout) -> bool:
    """Whether a checkout asks for the slot that it has anyway: what `run` starts in it finds its number in its environment."""
    asked = (str(checkout.root), "", checkout.preferred, project.name, project.ports(checkout.preferred))
    return checkout.source == "variable" and (slot.root, slot.label, slot.slot, slot.project, slot.ports) == asked


def _says(slot: Slot, project: Project, checkout: Checkout) -> bool:
    """Whether what is stored is what would be stored now."""
    stored = (slot.root, slot.label, slot.ports, slot.project, slot.name)
    return stored == (
        str(checkout.root),
        checkout.label,
        _ports(project, slot.slot, checkout),
        project.name,
        checkout.name,
    )


def _ports(project: Project, number: int, checkout: Checkout) -> dict[str, int]:
    return project.ports(number) | dict(checkout.ports)


def _with(kept: list[Slot], beside: list[Slot]) -> list[Slot]:
    """What is taken: where both tell of one entry, what is beside is newer."""
    newer = {slot.label for slot in beside if slot.label.startswith("/")}
    return [*(slot for slot in kept if slot.label not in newer), *beside]


def _is_over(slot: Slot, listening: Mapping[int, Listener]) -> bool:
    """Whether its checkout is gone, and nobody listens on its ports."""
    return not os.path.lexists(slot.root) and not any(port in listening for port in slot.ports.values())
