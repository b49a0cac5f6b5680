"""An agent with seven stores and a scheduler: any number of them may share a disk.

    PROTOAGENT_INSTANCE=alice python agent.py --port 7871 [--retry 15]

Where the stores lie is what `mnemosyne scope` says here. It answers

    GET /status
    POST /messages {"text": "…"}
    POST /jobs {"id": "…", "in": SECONDS}
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import sqlite3
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from apscheduler.executors.debug import DebugExecutor
from apscheduler.jobstores.base import ConflictingIdError
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import URL

from mnemo_coord import Coordinator, OwnerLock, Scope, errors, scope

log = logging.getLogger("agent")


def fire(fired: str, job: str) -> None:
    """What a job does: it adds a line to a file, once.

    APScheduler forgets a job after it has run. Whoever is killed between the two leaves it to its heir, who looks first: nobody
    else writes here, because only the owner of jobs.db runs jobs.
    """
    with open(fired, "a+", encoding="utf-8") as file:
        file.seek(0)
        if not any(line.startswith(f"{job} ") for line in file):
            file.write(f"{job} {os.getpid()}\n")


class Scheduler:
    """APScheduler on jobs.db, for as long as this process owns it."""

    def __init__(self, me: Coordinator, jobs: Path, fired: Path) -> None:
        self.state = "waiting"
        """``waiting`` for jobs.db, ``running``, or ``off``."""
        self.reason = ""
        self._me, self._jobs, self._fired = me, jobs, fired
        self._lock: OwnerLock | None = None
        # Each job runs before it is forgotten. An executor with threads forgets it first, and loses it when it is killed then.
        self._engine = BackgroundScheduler(
            jobstores={"default": SQLAlchemyJobStore(url=URL.create("sqlite", database=str(jobs)))},
            executors={"default": DebugExecutor()},
            job_defaults={"misfire_grace_time": None, "coalesce": True},  # however late, and once
            timezone=UTC,
        )

    def start(self, retry: float) -> None:
        """Starts when jobs.db is ours; stays off, and says so loudly, when it is still another's after ``retry`` seconds."""
        try:
            self._lock = self._me.own(self._jobs, component="the scheduler", retry=retry)
        except errors.CoordinationError as error:
            self.state, self.reason = "off", f"{error.message}. {error.hint}"
            log.error("[scheduler] %s", self.reason)  # noqa: TRY400  # no traceback: nothing is broken
            return
        self._engine.start()
        self.state = "running"
        log.info("[scheduler] owns %s", self._jobs)

    def stop(self) -> None:
        if self.state == "running":
            self._engine.shutdown()
        if self._lock:
            self._lock.release()

    def add(self, name: str, seconds: float) -> None:
        due = datetime.now(UTC) + timedelta(seconds=seconds)
        job = f"{name}@{due.isoformat()}"
        self._engine.add_job(fire, "date", run_date=due, id=name, args=[str(self._fired), job])


class Agent:
    """What it knows, in the stores of its scope."""

    def __init__(self, where: Scope, me: Coordinator) -> None:
        self.where = where
        self.stores = {name: Path(path) for name, path in where.stores.items()}
        for name in ("skills", "workflows", "memory"):
            self.stores[name].mkdir(parents=True, exist_ok=True)
        self.stores["jobs"].parent.mkdir(parents=True, exist_ok=True)
        (self.stores["skills"] / "listen.md").write_text("Keep what people say.\n")
        (self.stores["workflows"] / "message.md").write_text("inbox, knowledge, memory, checkpoint\n")
        self.scheduler = Scheduler(me, self.stores["jobs"], self.stores["memory"] / "fired.log")

    def hear(self, text: str) -> int:
        """Works on a message; returns how many there are."""
        self._note("inbox", text)
        self._note("knowledge", text)
        with (self.stores["memory"] / "conversation.log").open("a") as file:
            file.write(f"{text!r}\n")
        return self._note("checkpoints", "message done")

    def _note(self, store: str, text: str) -> int:
        with closing(sqlite3.connect(self.stores[store], timeout=10)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT NOT NULL)")
            return database.execute("INSERT INTO notes VALUES (?)", (text,)).lastrowid or 0

    def status(self) -> dict[str, object]:
        engine = self.scheduler
        return {"name": self.where.name, "root": self.where.root, "scheduler": engine.state, "reason": engine.reason}


class Handler(BaseHTTPRequestHandler):
    agent: Agent

    def do_GET(self) -> None:
        self._answer(200, self.agent.status()) if self.path == "/status" else self._answer(404, {})

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/messages":
                self._answer(200, {"messages": self.agent.hear(str(body["text"]))})
            elif self.agent.scheduler.state != "running":
                self._answer(503, self.agent.status())
            elif re.fullmatch(r"[A-Za-z0-9_-]{1,64}", body["id"]):
                self.agent.scheduler.add(body["id"], float(body["in"]))
                self._answer(201, {"id": body["id"]})
            else:
                self._answer(400, {"error": "not an id"})
        except (KeyError, TypeError, ValueError) as error:
            self._answer(400, {"error": str(error)})
        except ConflictingIdError as error:
            self._answer(409, {"error": str(error)})

    def _answer(self, code: int, document: Any) -> None:
        body = json.dumps(document).encode() + b"\n"
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=7871, help="0: any that is free")
    parser.add_argument("--retry", type=float, default=0.0, help="seconds to wait for jobs.db")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    where = scope()  # warns where there is no name and something is stored already
    with Coordinator(roles=["agent"]) as me, ThreadingHTTPServer(("127.0.0.1", options.port), Handler) as server:
        Handler.agent = agent = Agent(where, me)
        threading.Thread(target=agent.scheduler.start, args=[options.retry], daemon=True).start()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
        log.info("agent %s serves on port %d, stores in %s", agent.where.name or "-", server.server_port, agent.where.root)
        server.serve_forever()
        agent.scheduler.stop()


if __name__ == "__main__":
    try:
        main()
    except errors.CoordinationError as error:
        log.error("%s (%s)", error.message, error.hint)  # noqa: TRY400  # likewise
        sys.exit(error.exit_code)
