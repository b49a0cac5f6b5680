"""The API of one instance: how soon an event reaches a reader, what an overview costs, what readers cost in memory."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil

from benchmarks.measure import folder, p50_p99, table, timed
from benchmarks.members import COMMAND, _in_crowd
from mnemo_coord import Coordinator, Settings
from mnemo_coord.client import Api, api_of

FAST = Settings(heartbeat_interval=0.5, poll_interval=0.5)
READERS = 8


def run(*, quick: bool) -> None:
    rows = [_in_fleet_of(size, quick=quick) for size in ((10,) if quick else (10, 200, 1000))]
    table("serve --with-api, asked for the whole fleet", [("instances", "overview, p50 / p99", "JSON"), *rows])
    table("serve --with-api, events and readers", _with_readers(quick=quick))


class Server:
    """``mnemosyne serve --with-api`` in a folder."""

    def __init__(self, place: Path) -> None:
        argv = [COMMAND, "--dir", str(place / "fleet"), "serve", "--with-api", "--api-addr", "127.0.0.1:0"]
        self.process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        self.me = Coordinator(place / "fleet", settings=FAST)
        self.me.register()
        while not any(instance.api_url for instance in self.me.instances()):
            time.sleep(0.05)
        self.instance_id = next(instance.instance_id for instance in self.me.instances() if instance.api_url)
        self.api = self.client()

    def client(self) -> Api:
        return api_of(self.me.fleet, self.me.fleet.find(self.instance_id))

    @property
    def rss(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def close(self) -> None:
        self.me.unregister()
        self.process.terminate()
        self.process.wait(10)


def _in_fleet_of(size: int, *, quick: bool) -> tuple[str, str, str]:
    with folder() as place:
        workers = _in_crowd(place, size)
        with closing(Server(place)) as server:

            def look() -> None:
                server.api.call("GET", "/overview")
                time.sleep(0.11)  # the next one is looked at anew

            look()
            times = [took - 0.11 for took in timed(look, 5 if quick else 30)]
            overview = server.api.call("GET", "/overview")
        for worker in workers:
            worker.end()
    assert len(overview["instances"]) == size + 2
    return str(size), p50_p99(times), f"{len(str(overview)) / 1000:.0f} KB"


def _with_readers(*, quick: bool) -> list[tuple[str, str]]:
    count = 500 if quick else 10_000
    with folder() as place, closing(Server(place)) as server:
        idle = server.rss
        delays = _delays(server, 20 if quick else 300)
        readers = [server.client() for _ in range(READERS - 1)]
        open_streams = [reader.stream("/events") for reader in readers]
        for stream in open_streams:
            next(stream)  # and then nothing: they do not read
        for number in range(count // 2):  # each is received and acknowledged
            server.me.send(server.instance_id, "T", {"n": number, "text": "x" * 300})
            if number % 500 == 0:
                _until_handled(server)
        _until_handled(server)
        used = _idle_cpu(server, 2 if quick else 10)
        after = server.rss
        for stream in open_streams:
            stream.close()
    return [
        ("from sending a message to an event in another process, p50 / p99", p50_p99(delays)),
        (
            f"resident, idle / after {count:,} events with {READERS - 1} readers that do not read",
            f"{idle:.1f} / {after:.1f} MB",
        ),
        ("idle, with those readers", f"{100 * used:.2f} % of a core"),
    ]


def _delays(server: Server, count: int) -> list[float]:
    came: list[float] = []
    heard = threading.Semaphore(0)
    reader = server.client()

    def read() -> None:
        for kind, _ in reader.stream("/events"):
            if kind == "message_received":
                came.append(time.perf_counter())
                heard.release()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    time.sleep(0.5)
    delays = []
    for _ in range(count):
        begun = time.perf_counter()
        server.me.send(server.instance_id, "T")
        heard.acquire(timeout=5)
        delays.append(came[-1] - begun)
        time.sleep(0.005)
    reader.stop()
    return delays


def _until_handled(server: Server) -> None:
    while any(box["waiting"] for box in server.api.call("GET", "/mailboxes")["mailboxes"]):
        time.sleep(0.02)


def _idle_cpu(server: Server, seconds: float) -> float:
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / seconds
