"""Heartbeat, registration, ``list`` and death, in small fleets and in one of a thousand.

The thousand are real: each has its id, its held lock, its record, mailbox and heartbeat file. They share a few processes and
beat when they are told to, because a thousand interpreters would measure the machine's memory.
"""

from __future__ import annotations

import os
import select
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Worker, folder, p50_p99, table, timed
from mnemo_coord import Coordinator, Fleet, Settings
from mnemo_coord.events import EventKind
from mnemo_coord.members.heartbeat import BeatFile
from mnemo_coord.members.identity import ProcessIdentity, draw
from mnemo_coord.members.registration import Registration
from mnemo_coord.messages.address import Address

CALM = Settings(heartbeat_interval=600, poll_interval=600)
COMMAND = str(Path(sys.executable).parent / "mnemosyne")


def _crowd(pipe: Any, place: Path, members: int) -> None:
    """Members of a fleet that hold their locks and do nothing else."""
    fleet = Fleet.open(place / "fleet", settings=CALM)
    kept = []
    for _ in range(members):
        instance_id, lock = draw(fleet.state)
        registration = Registration(
            instance_id=instance_id, name=None, roles=(), registered_at="2026-01-01T00:00:00.000Z", seq=1, api_port=None,
            api_host=None, branch=None, worktree_path=None, lock=lock.identity, process=ProcessIdentity.own(fleet.clock),
        )  # fmt: skip
        lock.write(fleet.registry.seal(registration))
        fleet.mailboxes.make(Address(instance_id))
        beats = BeatFile(fleet.state, fleet.signer, fleet.clock, instance_id)
        beats.beat(1)
        fleet.registry.put(registration, EventKind.INSTANCE_REGISTERED)
        kept.append((lock, beats))
    pipe.send("ready")
    while True:
        pipe.recv()
        for _, beats in kept:
            beats.beat(1)
        pipe.send("beaten")


def _in_crowd(place: Path, size: int) -> list[Worker]:
    workers = [Worker(_crowd, place, size // 2), Worker(_crowd, place, size - size // 2)]
    for worker in workers:
        worker.get(600)
    return workers


def heartbeat(*, quick: bool) -> None:
    rows = [["registered", "beat, median", "CPU", "over the first", "register, median", "list, whole process"]]
    first = 0.0
    for size in (10, 50) if quick else (10, 100, 1000):
        with folder() as place:
            workers = _in_crowd(place, size)
            os.sync()  # what the crowd wrote when it came is not part of a heartbeat
            try:
                with Coordinator(place / "fleet", settings=CALM) as me:
                    me.heartbeat()
                    cpu = time.process_time()
                    beats = timed(me.heartbeat, 500)
                    cpu = (time.process_time() - cpu) / 500
                joins = []
                for _ in range(3 if quick else 9):
                    joining = Coordinator(place / "fleet", settings=CALM)
                    joins += timed(joining.register, 1)
                    joining.unregister()
                for worker in workers:
                    worker.put("beat")
                    worker.get()
                listing = timed(
                    lambda place=place: subprocess.run(
                        [COMMAND, "--dir", str(place / "fleet"), "list"], check=True, stdout=subprocess.DEVNULL
                    ),
                    3 if quick else 9,
                )
            finally:
                for worker in workers:
                    worker.end()
        median = statistics.median(beats)
        first = first or median
        rows.append(
            [
                str(size),
                f"{1e6 * median:.0f} us",
                f"{1e6 * cpu:.0f} us",
                f"{median / first:.2f}",
                f"{1000 * statistics.median(joins):.1f} ms",
                f"{1000 * statistics.median(listing):.0f} ms",
            ]
        )
    table("Members", rows)


def _join(pipe: Any, place: Path) -> None:
    import filelock  # noqa: F401
    import watchdog.observers  # noqa: F401

    pipe.send("ready")
    pipe.recv()
    with Coordinator(place / "fleet"):
        pipe.send(time.perf_counter())
        pipe.recv()


def registration(*, quick: bool) -> None:
    number = 11 if quick else 64
    with folder() as place:
        workers = [Worker(_join, place) for _ in range(number)]
        try:
            for worker in workers:
                worker.get()
            start = time.perf_counter()
            for worker in workers:
                worker.put("go")
            took = sorted(worker.get() - start for worker in workers)
        finally:
            for worker in workers:
                worker.end()
    table(
        f"{number} processes register at the same moment",
        [["half", f"{took[number // 2]:.2f} s"], ["all", f"{took[-1]:.2f} s"]],
    )


def _die(pipe: Any, place: Path) -> None:
    with Coordinator(place / "fleet") as me:
        pipe.send(me.instance_id)
        pipe.recv()


def death(*, quick: bool) -> None:
    with folder() as place, Coordinator(place / "fleet") as me:
        took, gone = [], []
        seen: dict[str, float] = {}
        rung = threading.Condition()

        def on_event(event: Any) -> None:
            with rung:
                seen[f"{event.kind} {event.instance_id}"] = time.perf_counter()
                rung.notify_all()

        me.on_event(on_event)
        for _ in range(5 if quick else 40):
            worker = Worker(_die, place)
            victim = worker.get()
            with rung:
                rung.wait_for(lambda victim=victim: f"instance_registered {victim}" in seen, 10)
            exited = select.poll()
            exited.register(os.pidfd_open(worker.process.pid), select.POLLIN)
            start = time.perf_counter()
            worker.process.kill()
            exited.poll()
            gone.append(time.perf_counter() - start)
            with rung:
                rung.wait_for(lambda victim=victim: f"instance_died {victim}" in seen, 10)
            took.append(seen[f"instance_died {victim}"] - start)
            worker.end()
    later = [max(0.0, callback - end) for callback, end in zip(took, gone, strict=True)]
    rows = [["", "p50 / p99"], ["the kernel has ended the process", p50_p99(gone)], ["a peer's callback", p50_p99(took)]]
    table("From kill -9 until", [*rows, ["of which after the process ended", p50_p99(later)]])
