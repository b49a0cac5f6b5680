"""Redis Streams over a unix socket, a message at a time: XADD, XREADGROUP, XACK. Needs redis-server and the redis package."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

name = "Redis Streams, unix socket"


def available() -> str:
    if importlib.util.find_spec("redis") is None:
        return "the redis package is not installed"
    return "" if shutil.which("redis-server") else "redis-server is not installed"


def prepare(place: Path) -> None:
    # It ends with the benchmark's folder: its socket is all that leads to it.
    subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(place / "s"), "--save", "", "--dir", str(place)],
        stdout=subprocess.DEVNULL,
    )
    while not (place / "s").exists():
        time.sleep(0.01)
    _open(place).xgroup_create("q", "g", mkstream=True)


def finish(place: Path) -> None:
    _open(place).shutdown(nosave=True)


def _open(place: Path):
    import redis

    return redis.Redis(unix_socket_path=str(place / "s"))


def sender(place: Path, number: int) -> Callable[[bytes], None]:
    client = _open(place)
    return lambda data: client.xadd("q", {"d": data}) and None


def receiver(place: Path) -> Iterator[bytes]:
    client = _open(place)
    yield b""
    while True:
        for _, entries in client.xreadgroup("g", "me", {"q": ">"}, count=1, block=10_000) or ():
            for entry_id, fields in entries:
                client.xack("q", "g", entry_id)
                yield fields[b"d"]
