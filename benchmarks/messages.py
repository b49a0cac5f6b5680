"""One-way latency at 100 messages a second, throughput 1→1 and 4→1, and broadcast, against the peers in the same run."""

from __future__ import annotations

import struct
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.measure import Worker, folder, p50_p99, table

PEERS = ("raw", "ours", "redis_streams", "sqlite_table")
PADDING = b"x" * 150


def _receive(pipe: Any, peer: str, place: Path, expected: int) -> None:
    incoming = import_module(f"benchmarks.peers.{peer}").receiver(place)
    next(incoming)
    pipe.send("ready")
    ages, first = [], 0.0
    for number, data in enumerate(incoming, 1):
        now = time.monotonic_ns()
        first = first or time.perf_counter()
        ages.append((now - struct.unpack_from("q", data)[0]) / 1e9)
        if number == expected:
            break
    pipe.send((time.perf_counter(), ages))


def _send(pipe: Any, peer: str, place: Path, number: int, count: int, pause: float) -> None:
    send = import_module(f"benchmarks.peers.{peer}").sender(place, number)
    send_one = lambda: send(struct.pack("q", time.monotonic_ns()) + PADDING)  # noqa: E731
    pipe.send("ready")
    pipe.recv()
    start = time.perf_counter()
    for _ in range(count):
        send_one()
        if pause:
            time.sleep(pause)
    pipe.send(start)


def _flow(peer: str, senders: int, each: int, pause: float) -> tuple[float, list[float]]:
    """Messages a second from the first send until the last has been handled, and the ages of all."""
    module = import_module(f"benchmarks.peers.{peer}")
    with folder() as place:
        module.prepare(place)
        receiver = Worker(_receive, peer, place, senders * each)
        workers = []
        try:
            receiver.get()
            workers = [Worker(_send, peer, place, number, each, pause) for number in range(senders)]
            for worker in workers:
                worker.get()
            for worker in workers:
                worker.put("go")
            start = min(worker.get() for worker in workers)
            end, ages = receiver.get()
        finally:
            for worker in [*workers, receiver]:
                worker.end()
            if hasattr(module, "finish"):
                module.finish(place)
    return senders * each / (end - start), ages


def run(*, quick: bool) -> None:
    each, slow, rounds = (2000, 100, 1) if quick else (20_000, 500, 3)
    rows = [["", "1→1 msg/s", "of the limit", "4→1 msg/s", "of the limit", "latency p50 / p99"]]
    limit: tuple[float, float] | None = None
    for peer in PEERS:
        module = import_module(f"benchmarks.peers.{peer}")
        reason = module.available()
        if reason:
            rows.append([module.name, f"skipped: {reason}", "", "", "", ""])
            continue
        one = sorted(_flow(peer, 1, each, 0)[0] for _ in range(rounds))[rounds // 2]
        four = sorted(_flow(peer, 4, each // 4, 0)[0] for _ in range(rounds))[rounds // 2]
        _, ages = _flow(peer, 1, slow, 0.01)
        limit = limit or (one, four)
        rows.append(
            [module.name, f"{one:,.0f}", f"{one / limit[0]:.2f}", f"{four:,.0f}", f"{four / limit[1]:.2f}", p50_p99(ages)]
        )
    table(f"Messages (medians of {rounds})", rows)


def _listen(pipe: Any, place: Path, members: int) -> None:
    import threading

    from mnemo_coord import Coordinator

    heard = threading.Semaphore(0)
    found = []
    for _ in range(members):
        me = Coordinator(place / "fleet")
        me.register()
        me.on_message(lambda message: heard.release())
        found.append(me)
    pipe.send("ready")
    while True:
        for _ in range(members):
            heard.acquire()
        pipe.send(time.monotonic_ns())


def broadcast(*, quick: bool) -> None:
    processes, members, times = (2, 5, 5) if quick else (10, 10, 15)
    from mnemo_coord import Coordinator

    with folder() as place:
        workers = [Worker(_listen, place, members) for _ in range(processes)]
        try:
            for worker in workers:
                worker.get()
            with Coordinator(place / "fleet") as me:
                took = []
                for _ in range(times):
                    start = time.monotonic_ns()
                    receipt = me.broadcast("Bench", {})
                    assert len(receipt.delivered) == processes * members
                    took.append((max(worker.get() for worker in workers) - start) / 1e9)
        finally:
            for worker in workers:
                worker.end()
    title = f"Broadcast to {processes * members} instances in {processes} processes, until the last has handled it"
    table(title, [["p50 / p99", p50_p99(took)]])
