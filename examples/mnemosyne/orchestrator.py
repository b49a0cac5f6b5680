"""Works through a plan: in a worktree of its own, on files that it has joined main for, a step at a time.

python orchestrator.py NAME PLAN

When another orchestrator dies, it does what that one had left to do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from mnemo_coord import CoordinationError, Coordinator, Event, Message

PATIENCE = 30.0


def git(folder: str | Path, *args: str) -> None:
    identity = ["-c", "user.name=orchestrator", "-c", "user.email=orchestrator@example.com"]
    subprocess.run(["git", *identity, *args], cwd=folder, check=True, stdout=subprocess.DEVNULL)


class Orchestrator:
    """One plan, one worktree, and what the others say."""

    def __init__(self, me: Coordinator, plan: dict[str, Any]) -> None:
        self.me = me
        self.plan = plan
        self.place = Path(me.open_worktree(plan["branch"], base="main").path)
        self.main = me.fleet.state.path.parent
        self.asked, self.started, self.free, self.caught_up = (threading.Event() for _ in range(4))
        self.free.set()
        self.left: dict[str, list[dict[str, Any]]] = {}
        self.died: list[str] = []
        self.changed = threading.Condition()
        me.on_message(self.hear)
        me.on_event(self.notice)

    def say(self, text: str) -> None:
        print(f"{self.me.name} {self.me.instance_id}: {text}", flush=True)

    # What the others say

    def hear(self, message: Message) -> None:
        if message.message_type == "JoinRequest":
            self.asked.set()
            self.free.wait(PATIENCE)  # the step is done and merged by then
            self.me.branches.answer(message, approve=True)
            self.say(f"lets {message.from_agent} in")
        elif message.message_type == "Left to do":
            with self.changed:
                self.left[message.from_agent] = message.payload
                self.changed.notify_all()
            if message.payload and "until_asked" in message.payload[0]:
                self.started.set()

        elif message.message_type == "Mark":
            self.caught_up.set()

    def notice(self, event: Event) -> None:
        if event.kind == "instance_died":
            with self.changed:
                self.died.append(event.instance_id)
                self.changed.notify_all()

    # Its own work

    def work(self, steps: list[dict[str, Any]]) -> None:
        for number, step in enumerate(steps):
            if step.get("after_other"):
                self.started.wait(PATIENCE)
            self.begin(step)
            self.me.broadcast("Left to do", steps[number:])
            self.do(step)
            self.free.set()
        self.me.broadcast("Left to do", [])

    def begin(self, step: dict[str, Any]) -> None:
        wish: dict[str, Any] = {"files": step["files"], "mode": "coordinated"}
        try:
            taken = self.me.branches.join("main", "write", **wish)
        except CoordinationError as refusal:
            self.say(f"is refused {step['what']} ({refusal.severity}); could: {', '.join(s.kind for s in refusal.suggestions)}")
            taken = self.me.branches.join("main", "write", **wish, timeout=PATIENCE)  # asks, and waits
        self.free.clear()
        self.me.report("working", step["what"])
        self.say(f"has {step['what']} at epoch {taken.epoch}")

    def do(self, step: dict[str, Any]) -> None:
        for name in step["files"]:
            path = self.place / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(step["text"])
        if step.get("crash") and self.me.name == "feature":
            self.say("crashes, with work that is not committed")
            os.kill(os.getpid(), signal.SIGKILL)
        if step.get("until_asked"):
            self.asked.wait(PATIENCE)
        git(self.place, "add", ".")
        git(self.place, "commit", "-qm", step["what"])
        with self.me.claim("merging", timeout=PATIENCE):  # one at a time changes the main checkout
            git(self.place, "rebase", "-q", "-X", "theirs", "main")
            git(self.main, "merge", "-q", "--ff-only", self.plan["branch"])
        self.say(f"has merged {step['what']}")

    # That of the dead

    def inherit(self) -> bool:
        """Waits until the other has finished or died, and does what it left. Whether it died."""
        with self.changed:
            self.changed.wait_for(lambda: self.died or (self.left and not any(self.left.values())), PATIENCE)
            dead = self.died[0] if self.died else None
        if dead is None:
            return False
        self.me.send(self.me.instance_id, "Mark")  # what the other said last is older than this
        self.caught_up.wait(PATIENCE)
        steps = self.left[dead]
        self.say(f"takes over from {dead}: {', '.join(step['what'] for step in steps)}")
        self.work(steps)
        return True


def main() -> int:
    name, plan = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    with Coordinator(name=name) as me:
        orchestrator = Orchestrator(me, plan)
        orchestrator.say(f"works in {orchestrator.place.name}, on {plan['branch']}")
        while len(me.instances()) < 2:
            threading.Event().wait(0.05)
        orchestrator.work(plan["steps"])
        return 0 if orchestrator.inherit() else 1


if __name__ == "__main__":
    sys.exit(main())
