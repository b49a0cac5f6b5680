"""Asks a reviewer to join its branch, takes the claim of the release, and crashes in the middle of it.

python planner.py
"""

from __future__ import annotations

import os
import signal
import sys

from mnemo_coord import Coordinator


def ask(me: Coordinator) -> str:
    """Sends the request and waits for the answer; returns the id of the reviewer that approved."""
    me.send("@reviewer", "JoinRequest", {"branch": "main"})  # waits in the mailbox if no reviewer is there yet
    while True:
        for delivery in me.receive(timeout=30):
            with delivery as message:
                if message.message_type == "JoinApproval":
                    return message.from_agent


def main() -> int:
    with Coordinator(name="planner") as me:
        print(f"planner {me.instance_id}: asks for a reviewer", flush=True)
        reviewer = ask(me)
        print(f"planner {me.instance_id}: approved by {reviewer}", flush=True)
        with me.claim("release") as claim:
            me.send(reviewer, "Started", {"claim": "release", "epoch": claim.epoch})
            print(f"planner {me.instance_id}: has the release at epoch {claim.epoch}, and crashes", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    return 1  # not reached


if __name__ == "__main__":
    sys.exit(main())
