"""Whole processes: how long they take to start over bare Python, and what ``serve --with-api`` holds and burns at idle."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.measure import folder, table, timed

COMMAND = str(Path(sys.executable).parent / "mnemosyne")


def run(*, quick: bool) -> None:
    with folder() as place:
        fleet = ["--dir", str(place / "fleet")]
        subprocess.run([COMMAND, *fleet, "send", "--to", "inbox", "Bench"], check=True, stdout=subprocess.DEVNULL)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "import mnemo_coord": [sys.executable, "-c", "import mnemo_coord"],
            "mnemosyne --version": [COMMAND, "--version"],
            "mnemosyne send": [COMMAND, *fleet, "send", "--to", "inbox", "Bench"],
            "mnemosyne list": [COMMAND, *fleet, "list"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(3 if quick else 15):  # in turn, so that a slow moment slows all of them
            for name, argv in commands.items():
                times[name] += timed(lambda argv=argv: subprocess.run(argv, check=True, capture_output=True), 1)
    bare = statistics.median(times["python -c pass"])
    rows = [["", "median", "over bare Python"]]
    rows += [
        [name, f"{1000 * statistics.median(found):.0f} ms", f"{statistics.median(found) / bare:.1f}x"]
        for name, found in times.items()
    ]
    table("Start-up, whole process", rows)


def serve(*, quick: bool) -> None:
    with folder() as place:
        argv = [COMMAND, "--dir", str(place / "fleet"), "serve", "--with-api", "--api-addr", "127.0.0.1:0"]
        process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        try:
            time.sleep(2 if quick else 5)
            watched = psutil.Process(process.pid)
            before, start = sum(watched.cpu_times()[:2]), time.monotonic()
            time.sleep(3 if quick else 20)
            burnt = (sum(watched.cpu_times()[:2]) - before) / (time.monotonic() - start)
            resident = watched.memory_info().rss / 1e6
        finally:
            process.terminate()
            process.wait(10)
    table("serve --with-api, idle", [["resident", f"{resident:.0f} MB"], ["CPU", f"{100 * burnt:.2f} %"]])
