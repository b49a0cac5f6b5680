"""Shared by all figures: percentiles, child processes that talk over a pipe, the header, the table."""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FORK = multiprocessing.get_context("spawn")


@contextmanager
def folder() -> Iterator[Path]:
    """A fresh folder on the file system under test (``TMPDIR`` chooses it)."""
    place = Path(tempfile.mkdtemp(prefix="mnemo-bench-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def p50_p99(seconds: Sequence[float]) -> str:
    return f"{1000 * statistics.median(seconds):.2f} / {1000 * percentile(seconds, 0.99):.2f} ms"


def timed(call: Callable[[], Any], times: int) -> list[float]:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


class Worker:
    """A process that runs ``target(connection, *args)``."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=target, args=(theirs, *args), daemon=True)
        self.process.start()

    def get(self, timeout: float = 120.0) -> Any:
        if not self.pipe.poll(timeout):
            raise TimeoutError("a worker of the benchmark does not answer")
        return self.pipe.recv()

    def put(self, value: Any) -> None:
        self.pipe.send(value)

    def end(self) -> None:
        self.process.terminate()
        self.process.join(10)


def header() -> str:
    names = ("mnemo-coord", "watchdog", "filelock", "orjson", "cryptography", "psutil", "uvicorn", "redis")
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} missing")
    kind = os.popen(f"stat -f -c %T {tempfile.gettempdir()}").read().strip()
    return (
        f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}, "
        f"{tempfile.gettempdir()} on {kind}\n" + ", ".join(found)
    )


def table(title: str, rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()
