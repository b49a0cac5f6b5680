"""Named instances of a project: each with a workspace, ports and a slot of its own, beside the default one.

What instances.yaml says counts, whoever wrote it; the ledger of slots follows at the next use. The default instance has no
entry: its workspace is the home, its slot 0. In a project without a ``home:`` it is the instance of the checkout, or of the
slot that is asked for, and its workspace is ``<home>.<slot>`` where the slot is not 0: no project has a dot in its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final, TypeVar

from mnemo_coord import errors
from mnemo_coord.instances import roster
from mnemo_coord.instances.environment import given
from mnemo_coord.instances.home import home, instances_file, tilde
from mnemo_coord.instances.ledger import data_dir
from mnemo_coord.instances.project import Project
from mnemo_coord.instances.roster import Entry
from mnemo_coord.instances.slots import Allocation, Checkout, Slot, Slots, choose, recognise, stored_slot
from mnemo_coord.instances.workspace import Workspace

__all__ = ["DEFAULT", "Instances", "Named"]

DEFAULT: Final = "default"
_TRIES: Final = 5
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """An instance that has a name."""

    name: str
    workspace: Path
    """Links resolved; it need not be there."""
    ports: dict[str, int]
    """By the names of the services."""
    slot: int

    @property
    def is_default(self) -> bool:
        """Whether it is the one that needs no entry."""
        return self.name == DEFAULT


class Instances:
    """The instances of a project on this machine."""

    def __init__(self, project: Project, environ: Mapping[str, str] | None = None, *, slots: Slots | None = None) -> None:
        surroundings = given(os.environ if environ is None else environ)
        self.project = project
        self.home = home(project, surroundings)
        self.file = instances_file(project, surroundings)
        self.notes: tuple[str, ...] = ()
        """What a person should know of the ports that were given last: who listens on them, and which were passed over."""
        self._surroundings = surroundings
        self._slots = slots or Slots(data_dir(surroundings))

    def all(self) -> list[Named]:
        """The default one, then those of the file, in its order. Makes nothing.

        Raises:
            errors.Config: something in instances.yaml is not valid; file, line and key are in the message.
            errors.State: it, or the ledger of slots, cannot be read.
        """
        return self._all()[0]

    def _all(self) -> tuple[list[Named], dict[str, Entry]]:
        """All of them, and the entries by their names."""
        known = self._slots.all()
        default = self._default(known)
        reserved = Entry(name=DEFAULT, workspace=default.workspace, ports=default.ports)
        entries = roster.read(self.file, self.project, self.home, reserved)
        numbers = _numbers(self.project, entries, [self._stored(entry, known) for entry in entries])
        found = [
            Named(name=one.name, workspace=one.workspace, ports=self.project.ports(slot) | one.ports, slot=slot)
            for one, slot in zip(entries, numbers, strict=True)
        ]
        return [default, *found], {entry.name: entry for entry in entries}

    def _default(self, known: Iterable[Slot]) -> Named:
        checkout = self._default_checkout()
        stored = stored_slot(self.project, checkout, known)
        if stored is not None and stored.slot < self.project.slots:
            return self._as_default(stored.slot)
        if self.project.home:
            return self._as_default(checkout.preferred)
        # Not given yet: what would be. The one that it prefers may be another checkout's, with a workspace of its own.
        others = [slot for slot in known if slot is not stored and os.path.lexists(slot.root)]
        return self._as_default(choose(self.project, checkout.preferred, others, {})[0])

    def _as_default(self, slot: int) -> Named:
        place = self.home if self.project.home or slot == 0 else self.home.with_name(f"{self.home.name}.{slot}")
        return Named(name=DEFAULT, workspace=place, ports=self.project.ports(slot), slot=slot)

    def _default_checkout(self) -> Checkout:
        if self.project.home:
            return Checkout(root=self.home, label="", name=self.project.name, preferred=0, source="default")
        return recognise(self.project, self._surroundings, self.project.root)

    def _stored(self, entry: Entry, known: Iterable[Slot]) -> Slot | None:
        own = [slot for slot in known if slot.project == self.project.name and slot.label.startswith("/")]
        by_label = next((slot for slot in own if slot.label == self._label(entry.name)), None)
        return by_label or next((slot for slot in own if slot.root == str(entry.workspace)), None)

    def _label(self, name: str) -> str:
        """What tells an entry from those of other files."""
        return f"{os.path.realpath(self.file)}#{name}"

    def get(self, name: str) -> Named:
        """One of them. Makes nothing.

        Raises:
            errors.NotFound: there is none; the hint has names that are near.
            errors.Config: see `all`.
            errors.State: see `all`.
        """
        found = self.all()
        return next((one for one in found if one.name == name), None) or self._missing(name, found)

    def _missing(self, name: str, found: list[Named]) -> Named:
        near = get_close_matches(name, [one.name for one in found], 3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {', '.join(one.name for one in found)}"
        raise errors.NotFound(f"{self.project.name} has no instance {name!r}", hint=hint, name=name)

    def allocate(self, name: str = DEFAULT) -> tuple[Named, Allocation]:
        """One of them for use: its folder is there, and the ledger says of its ports what instances.yaml says.

        Raises:
            errors.NotFound: there is none.
            errors.Conflict: another instance or project has one of its ports, or no slot is free.
            errors.CoordinationError: see `all`, `Slots.allocate` and `Workspace.ensure`.
        """
        found, entries = self._all()
        one = next((one for one in found if one.name == name), None) or self._missing(name, found)
        if not one.is_default or self.project.home:
            Workspace(one.workspace).ensure()
        checkout = self._default_checkout() if one.is_default else self._checkout(entries[name], one.slot)
        allocation = self._allocated(checkout, [other for other in found if other.name != name])
        slot = allocation.slot
        used = Named(name=name, workspace=one.workspace, ports=slot.ports, slot=slot.slot)
        return self._as_default(slot.slot) if one.is_default else used, allocation

    def _allocated(self, checkout: Checkout, others: Iterable[Named]) -> Allocation:
        beside = [self._as_slot(other) for other in others]
        allocation = self._slots.allocate(self.project, checkout, beside)
        # That the next free number is given is nothing to tell; that a stranger is in the way is.
        over = [text for text in allocation.passed_over if " is used by " in text or not checkout.entry]
        self.notes = (*over, *allocation.heard)
        return allocation

    def _checkout(self, entry: Entry, preferred: int) -> Checkout:
        return Checkout(
            root=entry.workspace,
            label=self._label(entry.name),
            name=entry.name,
            preferred=preferred,
            source="name",
            ports=entry.ports,
            entry=True,
        )

    def _as_slot(self, one: Named) -> Slot:
        own = self._default_checkout()
        root, label, name = (
            (own.root, own.label, own.name) if one.is_default else (one.workspace, self._label(one.name), one.name)
        )
        return Slot(project=self.project.name, root=str(root), label=label, name=name, slot=one.slot, ports=one.ports, at="")

    def add(self, name: str, *, workspace: Path | None = None, ports: Mapping[str, int] | None = None) -> tuple[Named, bool]:
        """Makes an instance: its folder, slot and entry. Also returns whether it is new; one that exists stays as it is.

        ``ports`` are those that are asked for; the others follow from the slot, the first free one from 1.

        Raises:
            errors.Config: the name is not valid, or the workspace is a folder for more than one instance.
            errors.NotFound: there is no such service.
            errors.Conflict: it exists with another workspace or another port, or another instance has what is asked for.
            errors.TimedOut: another process is changing instances.yaml.
            errors.State: it cannot be read or written.
        """
        roster.checked(name, self.project)
        asked = {self.project.service(service).name: port for service, port in (ports or {}).items()}
        place = Path(os.path.realpath(Path(f"{self.home}_{name}") if workspace is None else workspace.expanduser()))
        self._make_folder()

        def act(before: bytes | None) -> tuple[Named, bool] | None:
            found = self.all()
            known = next((one for one in found if one.name == name), None)
            if known:
                _refuse_other(known, place if workspace is not None else None, asked)
                return known, False
            self._refuse_place(place, found)
            entry = Entry(name=name, workspace=place, ports=asked)
            return self._added(entry, found, before)

        return self._changed(act)

    def _make_folder(self) -> None:
        """The folder of instances.yaml."""
        folder = Path(os.path.realpath(self.file)).parent
        if not folder.is_dir():
            Workspace(folder).ensure()

    def _changed(self, act: Callable[[bytes | None], _T | None]) -> _T:
        """What ``act`` returns, tried again as long as somebody else changes the file."""
        with roster.held(self.file):
            for _ in range(_TRIES):
                done = act(roster.content(self.file))
                if done is not None:
                    return done
        raise errors.Conflict(f"{self.file}: somebody else keeps changing it", hint="try again", holder=None)

    def _added(self, entry: Entry, found: list[Named], before: bytes | None) -> tuple[Named, bool] | None:
        """Takes a slot and writes the entry; gives all of it back where that fails, or somebody else was faster."""
        made = Workspace(entry.workspace).ensure()  # a slot whose root is not there is free for others
        written, slot = False, None
        try:
            slot = self._allocated(self._checkout(entry, 1), found).slot
            text = roster.with_entry(before, entry.name, str(tilde(entry.workspace)), slot.ports)
            written = roster.publish(self.file, before, text)
        finally:
            if not written:
                if slot:
                    self._slots.release(Path(slot.root), slot.label)
                if made:
                    Workspace(entry.workspace).unmake()
        named = Named(name=entry.name, workspace=entry.workspace, ports=slot.ports, slot=slot.slot)
        return (named, True) if written else None

    def _refuse_place(self, place: Path, found: Iterable[Named]) -> None:
        twin = next((one for one in found if one.workspace == place), None)
        if twin:
            what = f"{place} is the workspace of {twin.name}"
            raise errors.Conflict(what, hint="each instance has one of its own", holder=twin.name)
        other = next((slot for slot in self._slots.all() if slot.root == str(place)), None)
        if other and other.project != self.project.name:
            what = f"{place} is the workspace of {other.name} of {other.project}"
            raise errors.Conflict(what, hint="each instance has one of its own", holder=other.name)
        if place == Path(place.anchor) or Path(os.path.realpath(os.path.expanduser("~"))).is_relative_to(place):
            raise errors.Config(f"{place} is not a folder for one instance", hint="--workspace PATH", key="workspace")
        if not str(place).isprintable():
            raise errors.Config(
                f"{str(place)!r} has a character that is not printable", hint="--workspace PATH", key="workspace"
            )

    def remove(self, name: str) -> Named:
        """Removes an entry and gives its slot back. The workspace stays. Returns what it was.

        Raises:
            errors.NotFound: there is none.
            errors.Config: it is the default one, which has no entry.
            errors.TimedOut: another process is changing instances.yaml.
            errors.State: it cannot be read or written.
        """
        if name == DEFAULT:
            raise errors.Config("the default instance has no entry", hint="remove its folder by hand", key="instance")
        if not Path(os.path.realpath(self.file)).is_file():
            return self.get(name)

        def act(before: bytes | None) -> Named | None:
            one = self.get(name)
            done = roster.publish(self.file, before, roster.without_entry(before or b"", name))
            return one if done else None

        removed = self._changed(act)
        for slot in self._slots.all():
            if slot.label == self._label(name):
                self._slots.release(Path(slot.root), slot.label)
        return removed


def _numbers(project: Project, entries: list[Entry], stored: list[Slot | None]) -> list[int]:
    """The slot of each entry: the stored one, else what its ports tell, else the first that is free. No two have one."""
    used: set[int] = set()
    numbers: list[int | None] = []
    for entry, slot in zip(entries, stored, strict=True):
        wanted = slot.slot if slot else _told(project, entry)
        number = wanted if wanted and wanted not in used else None
        numbers.append(number)
        used |= {number} if number else set()
    for place, number in enumerate(numbers):
        if number is None:
            numbers[place] = next(free for free in range(1, len(entries) + len(used) + 2) if free not in used)
            used.add(numbers[place] or 0)
    return [number or 0 for number in numbers]


def _told(project: Project, entry: Entry) -> int | None:
    """The slot that most of its ports are of."""
    told = [divmod(entry.ports[one.name] - one.port, project.stride) for one in project.services if one.name in entry.ports]
    whole = [slot for slot, rest in told if rest == 0 and 0 < slot < project.slots]
    return max(whole, key=whole.count) if whole else None


def _refuse_other(known: Named, workspace: Path | None, ports: Mapping[str, int]) -> None:
    if workspace is not None and workspace != known.workspace:
        what = f"{known.name} exists with the workspace {known.workspace}"
        raise errors.Conflict(what, hint="edit instances.yaml, or choose another name", holder=known.name)
    for service, port in ports.items():
        if known.ports.get(service) != port:
            what = f"{known.name} exists with {service} on port {known.ports.get(service)}"
            raise errors.Conflict(what, hint="edit instances.yaml, or choose another name", holder=known.name)
