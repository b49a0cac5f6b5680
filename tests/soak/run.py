"""The soak: writers and readers that work, a nemesis that kills, stops, fills, renames and deletes, and what came of it."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from soak.history import History, Key, check

from mnemo_coord import Coordinator, Event, EventKind, Settings, doctor
from mnemo_coord.findings import Severity
from mnemo_coord.messages.address import Address

__all__ = ["Plan", "Report", "soak"]

HERE = Path(__file__).parent
OBSERVER = Settings(heartbeat_interval=0.5, poll_interval=0.5)
DISK = "16m"


@dataclass(frozen=True, kw_only=True)
class Plan:
    seconds: float = 60.0
    seed: int | None = None
    writers: int = 10
    readers: int = 5


@dataclass
class Report:
    """What came of it."""

    plan: Plan
    actions: Counter[str]
    history: History
    violations: dict[str, list[str]]
    deaths: list[float]
    """Seconds from each kill until the observer was told."""
    kills: int
    dead_letters: int
    skipped: list[str] = field(default_factory=list)

    def table(self) -> str:
        received = Counter(key for _, _, key, _ in self.history.got)
        again = sum(count - 1 for count in received.values())
        delays = sorted(self.deaths) or [float("nan")]
        p99 = delays[min(len(delays) - 1, int(len(delays) * 0.99))]
        rows = [
            (
                "time",
                f"{self.plan.seconds:g} s, {self.plan.writers} writers, {self.plan.readers} readers, seed {self.plan.seed}",
            ),
            ("machine", f"Linux {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores"),
            *((f"nemesis: {what}", f"{count:,}") for what, count in sorted(self.actions.items())),
            *((f"nemesis: {what}", "not possible here") for what in self.skipped),
            ("messages sent", f"{len(self.history.invoked):,}"),
            ("accepted", f"{len(self.history.accepted):,}"),
            ("refused to the sender (full disk and the like)", f"{len(self.history.refused):,}"),
            ("acknowledged", f"{sum(self.history.done.values()):,}"),
            ("handed out again, and marked so", f"{again:,}"),
            ("for instances that were dead by then (dead letters)", f"{self.dead_letters:,}"),
            ("holds of one claim by all readers", f"{len(self.history.holds):,}"),
            ("deaths that a watching peer was told of", f"{len(self.deaths)} of {self.kills}"),
            ("… after, median / 99 %", f"{statistics.median(delays) * 1e3:.0f} / {p99 * 1e3:.0f} ms"),
            *((f"**{what}**", f"**{len(found)}**") for what, found in self.violations.items()),
        ]
        return "\n".join(["| | |", "| --- | ---: |", *(f"| {name} | {value} |" for name, value in rows)])


class Workers:
    """The processes, each in its place, started again whenever the nemesis has killed one."""

    def __init__(self, place: Path, state_dir: Path, plan: Plan) -> None:
        self._place = place
        self._state_dir = state_dir
        self._started = 0
        kinds = [("writer", f"writer{number}") for number in range(plan.writers)]
        kinds += [("reader", "sink" if number == 0 else f"reader{number}") for number in range(plan.readers)]
        self.places = kinds
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.killed_at: dict[int, int] = {}
        for kind, key in kinds:
            self.start(kind, key)

    def start(self, kind: str, key: str) -> None:
        self._started += 1
        journal = self._place / f"{key}.{self._started:04d}.journal"
        argv = [sys.executable, str(HERE / "worker.py"), kind, str(self._state_dir), str(journal), key]
        with (self._place / f"{key}.err").open("ab") as err:
            self.running[key] = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=err)

    def kill(self, kind: str, key: str) -> None:
        victim = self.running[key]
        self.killed_at[victim.pid] = time.monotonic_ns()
        victim.kill()
        victim.wait()
        self.start(kind, key)

    def stop(self, kind: str) -> None:
        """Asks all of one kind to leave, and waits."""
        ending = [self.running.pop(key) for of, key in self.places if of == kind]
        for process in ending:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in ending:
            process.wait(30)


class Nemesis:
    """Does something evil every 50 to 300 ms."""

    def __init__(self, state_dir: Path, workers: Workers, plan: Plan, *, has_disk: bool) -> None:
        self._state = state_dir
        self._workers = workers
        self._random = random.Random(plan.seed)
        self._actions: list[Callable[[], str | None]] = [self._kill] * 6 + [self._stop_for_a_while] * 3
        self._actions += [self._delete_a_heartbeat, self._delete_a_lock, self._delete_the_registry, self._spoil_the_registry]
        self._actions += [self._kill_a_watcher, self._set_a_clock, self._rename_away_and_back, self._plant]
        if has_disk:
            self._actions += [self._fill_the_disk] * 2
        self.done: Counter[str] = Counter()

    def rage(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(self._random.uniform(0.05, 0.3))
            try:
                what = self._random.choice(self._actions)()
            except OSError as error:
                # What it wanted to spoil is gone, or the workers have filled the small disk: then it does something else.
                if error.errno not in {errno.ENOENT, errno.ENOSPC}:
                    raise
                continue
            if what:
                self.done[what] += 1

    def _anyone(self) -> tuple[str, str]:
        return self._random.choice(self._workers.places)

    def _kill(self) -> str:
        self._workers.kill(*self._anyone())
        return "kill -9, and a new process in its place"

    def _signal(self, number: int) -> None:
        self._workers.running[self._anyone()[1]].send_signal(number)

    def _stop_for_a_while(self) -> str:
        victim = self._workers.running[self._anyone()[1]]
        victim.send_signal(signal.SIGSTOP)
        threading.Timer(self._random.uniform(0.1, 3.0), victim.send_signal, [signal.SIGCONT]).start()
        return "SIGSTOP for up to 3 s"

    def _some(self, pattern: str) -> Path | None:
        found = sorted((self._state / "instances").glob(pattern))
        return self._random.choice(found) if found else None

    def _delete_a_heartbeat(self) -> str | None:
        path = self._some("*.beat")
        if path:
            path.unlink()
        return "heartbeat file deleted"

    def _delete_a_lock(self) -> str | None:
        path = self._some("*.lock")
        if path:
            path.unlink()
        return "lock file of an instance deleted"

    def _delete_the_registry(self) -> str:
        (self._state / "process_registry.json").unlink()
        return "registry deleted"

    def _spoil_the_registry(self) -> str:
        (self._state / "process_registry.json").write_bytes(b"\0" * self._random.randrange(5000))
        return "registry overwritten with zeros"

    def _kill_a_watcher(self) -> str:
        self._signal(signal.SIGUSR1)
        return "watcher thread ended"

    def _set_a_clock(self) -> str:
        self._signal(signal.SIGUSR2)
        return "wall clock set by up to an hour"

    def _rename_away_and_back(self) -> str:
        """For an instant: whoever beats meanwhile misses it and makes a new one, and then there would be two fleets."""
        away = self._state.with_name("away")
        self._state.rename(away)
        while True:
            try:
                away.rename(self._state)
                break
            except OSError:
                shutil.rmtree(self._state, ignore_errors=True)
        return "state directory renamed away and back"

    def _plant(self) -> str:
        boxes = [path for path in (self._state / "coordination_queue").iterdir() if (path / "new").is_dir()]
        place = self._random.choice(boxes) / "new" / f"{time.time_ns():016x}-planted.json"
        self._random.choice(
            [
                lambda: place.symlink_to("/etc/passwd"),
                lambda: os.mkfifo(place),
                lambda: place.write_bytes(b""),
                lambda: place.write_bytes(os.urandom(2000)),
                place.mkdir,
            ]
        )()
        return "planted among the messages: link, pipe, folder, rubbish"

    def _fill_the_disk(self) -> str:
        ballast = self._state.parent / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"\0" * 65536)
        time.sleep(self._random.uniform(0.05, 0.4))
        ballast.unlink()
        return "disk full for up to 0.4 s"


def mount_disk(at: Path) -> bool:
    """A small disk of our own to fill. Works as root of a user namespace with its own mounts."""
    at.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "none", str(at)]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def soak(place: Path, plan: Plan) -> Report:
    """Runs it and checks it."""
    plan = Plan(**{**vars(plan), "seed": random.randrange(2**32) if plan.seed is None else plan.seed})
    journals, disk = place / "journals", place / "disk"
    journals.mkdir()
    has_disk = mount_disk(disk)
    state_dir = disk / ".mnemosyne"
    told: dict[int, int] = {}

    def on_event(event: Event) -> None:
        if event.kind is EventKind.INSTANCE_DIED:
            told.setdefault(event.data["pid"], time.monotonic_ns())

    with Coordinator(state_dir, settings=OBSERVER) as observer:
        observer.on_event(on_event)
        workers = Workers(journals, state_dir, plan)
        nemesis = Nemesis(state_dir, workers, plan, has_disk=has_disk)
        try:
            nemesis.rage(plan.seconds)
            workers.stop("writer")
            _until(lambda: _empty(observer), 30.0)
            workers.stop("reader")
        finally:
            for process in workers.running.values():
                process.kill()
        _until(lambda: set(workers.killed_at) & History.read(journals).joined <= set(told), 5.0)
        report = _report(observer, plan, nemesis, workers, told, journals)
    if has_disk:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    report.skipped += [] if has_disk else ["disk full"]
    return report


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def _empty(observer: Coordinator) -> bool:
    return all(d.waiting + d.claimed == 0 for d in observer.fleet.fates.depths() if d.address in {"sink", "@reader"})


def _report(
    observer: Coordinator, plan: Plan, nemesis: Nemesis, workers: Workers, told: dict[int, int], journals: Path
) -> Report:
    fleet = observer.fleet
    fleet.cleanup_stale()
    aside = fleet.fates.set_aside()
    pending = {_key(known.message.payload) for known in aside if known.message and known.fate == "dead-lettered"}
    for address in ("sink", "@reader"):
        for delivery in fleet.queue.receive([Address(address)], observer.instance_id):
            pending.add(_key(delivery.message.payload))
            delivery.acknowledge()
    history = History.read(journals)
    counter = journals / "counter"
    violations = check(history, pending, workers.killed_at, int(counter.read_text()) if counter.exists() else 0)
    # Whoever has not ended is either at work or has left: nobody else may have been called dead, and nobody before his end.
    ended = workers.killed_at | history.left_behind
    alive = [pid for pid, at in told.items() if at < ended.get(pid, at + 1)]
    violations["alive, and reported dead"] = [_last_words(journals, pid) for pid in alive]
    doctor.examine(fleet.state.path, fix=True)
    left = doctor.examine(fleet.state.path).findings
    violations["left over after the doctor"] = [f.code for f in left if f.severity is not Severity.NOTICE]
    killed = {pid: at for pid, at in workers.killed_at.items() if pid in history.joined}  # not while it was still starting
    deaths = [(told[pid] - at) / 1e9 for pid, at in killed.items() if pid in told]
    return Report(
        plan=plan,
        actions=nemesis.done,
        history=history,
        violations=violations,
        deaths=[max(0.0, delay) for delay in deaths],
        kills=len(killed),
        dead_letters=sum(known.fate == "dead-lettered" for known in aside),
    )


def _last_words(journals: Path, pid: int) -> str:
    """The end of what a process noted, and of its log: what one needs to understand why it was taken for dead."""
    for journal in sorted(journals.glob("*.journal")):
        lines = journal.read_text().splitlines()
        if any(line.startswith("joined") and line.endswith(f" {pid}") for line in lines):
            log = (journals / f"{journal.name.partition('.')[0]}.err").read_text(errors="replace").splitlines()
            return f"{pid}: {journal.name} ends in {lines[-3:]}; its log in {log[-6:]}"
    return str(pid)


def _key(payload: dict[str, int | str]) -> Key:
    return str(payload["from"]), int(payload["n"])
