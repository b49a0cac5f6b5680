"""Approves a planner's request, and takes the release over when the planner dies.

python reviewer.py
"""

from __future__ import annotations

import sys
import threading

from mnemo_coord import Coordinator, Event


class Deaths:
    """Who has died, as this process was told."""

    def __init__(self, me: Coordinator) -> None:
        self._ids: set[str] = set()
        self._changed = threading.Condition()
        me.on_event(self._note)

    def _note(self, event: Event) -> None:
        if event.kind == "instance_died":
            with self._changed:
                self._ids.add(event.instance_id)
                self._changed.notify_all()

    def wait_for(self, instance_id: str, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: instance_id in self._ids, timeout)


def main() -> int:
    with Coordinator(roles=["reviewer"]) as me:
        deaths = Deaths(me)
        print(f"reviewer {me.instance_id}: is here", flush=True)
        started = None
        while started is None:
            for delivery in me.receive(timeout=30):
                with delivery as message:
                    if message.message_type == "JoinRequest":
                        me.send(message.from_agent, "JoinApproval", {"branch": message.payload["branch"]})
                        print(f"reviewer {me.instance_id}: approves {message.from_agent}", flush=True)
                    elif message.message_type == "Started":
                        started = message
        if not deaths.wait_for(started.from_agent, timeout=30):
            print(f"reviewer {me.instance_id}: the planner lives", flush=True)
            return 1
        print(f"reviewer {me.instance_id}: {started.from_agent} has died", flush=True)
        with me.claim("release", timeout=5) as claim:
            claim.check()
            print(f"reviewer {me.instance_id}: has the release at epoch {claim.epoch}", flush=True)
            return 0 if claim.epoch > started.payload["epoch"] else 1


if __name__ == "__main__":
    sys.exit(main())
