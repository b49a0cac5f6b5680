"""The operations whose every system call is hit by every fault, and the process that runs them.

A zygote has everything imported; for each case it forks a child, which prepares the operation, says so, and waits until strace
has attached: so the n-th call is the n-th call of the operation and not one of the interpreter's start. The child writes what
it was told, such as the id of a message that was accepted, to a pipe by writev(2), which no fault is injected into.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from mnemo_coord import Coordinator, Fleet, Settings, doctor, errors
from mnemo_coord.disk.signing import Purpose, Signer

QUIET = Settings(heartbeat_interval=3600.0, poll_interval=3600.0, lock_timeout=2.0)
"""Nothing happens in the background: the calls are those of the operation."""

Say = Callable[..., None]
Action = Callable[[], Any]


def first_start(place: str, say: Say) -> Action:
    def act() -> None:
        say("registered", Coordinator(f"{place}/fresh", name="first", settings=QUIET).register())

    return act


def register(place: str, say: Say) -> Action:
    def act() -> None:
        say("registered", Coordinator(place, name="comer", roles=["worker"], settings=QUIET).register())

    return act


def beat(place: str, say: Say) -> Action:
    me = Coordinator(place, settings=QUIET)
    me.register()
    return me.heartbeat


def send(place: str, say: Say) -> Action:
    fleet = Fleet.open(place, settings=QUIET)
    fleet.send("inbox", "Before", 0, sender="tester")

    def act() -> None:
        try:
            say("accepted", fleet.send("inbox", "Work", "x" * 100, sender="tester", message_id="the-one", durable=True).id)
        except errors.Unknown:
            say("unknown", "the-one")

    return act


def broadcast(place: str, say: Say) -> Action:
    fleet = Fleet.open(place, settings=QUIET)

    def act() -> None:
        receipt = fleet.broadcast("News", "x" * 100, sender="tester")
        for address in receipt.delivered:
            say("broadcast", address, receipt.id)

    return act


def claim(place: str, say: Say) -> Action:
    me = Coordinator(place, settings=QUIET)
    me.register()

    def act() -> None:
        with me.claim("lamp") as lamp:
            say("epoch", lamp.epoch)

    return act


def acknowledge(place: str, say: Say) -> Action:
    me = Coordinator(place, roles=["worker"], settings=QUIET)
    me.register()
    say("accepted", me.send("@worker", "Work", 1).id)

    def act() -> None:
        for delivery in me.receive():
            say("got", delivery.message.id, delivery.delivery)
            delivery.acknowledge()
            say("acknowledged", delivery.message.id)

    return act


def reap(place: str, say: Say) -> Action:
    _leave_a_dead_one(place, say)
    fleet = Fleet.open(place, settings=QUIET)
    return fleet.cleanup_stale


def doctor_fix(place: str, say: Say) -> Action:
    _leave_a_dead_one(place, say)
    with open(f"{place}/process_registry.json", "r+b") as registry:
        registry.truncate(100)
    return lambda: doctor.examine(place, fix=True, settings=QUIET)


def unregister(place: str, say: Say) -> Action:
    me = Coordinator(place, name="leaver", roles=["worker"], settings=QUIET)
    me.register()
    say("accepted", me.send("@worker", "Work", 1).id)
    next(iter(me.receive()))
    return me.unregister


def _leave_a_dead_one(place: str, say: Say) -> None:
    """One that died with a message in hand, a claim and a name."""
    pid = os.fork()
    if pid == 0:
        me = Coordinator(place, name="victim", roles=["worker"], settings=QUIET)
        me.register()
        say("accepted", me.send("@worker", "Work", 1).id)
        next(iter(me.receive()))
        me.claim("lamp")
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)


OPERATIONS = {
    "first start": first_start,
    "register": register,
    "beat": beat,
    "send": send,
    "broadcast": broadcast,
    "claim": claim,
    "acknowledge": acknowledge,
    "reap": reap,
    "doctor --fix": doctor_fix,
    "unregister": unregister,
}


def serve_cases() -> None:
    """Reads cases from stdin, a JSON document a line; the parent says when strace has attached."""
    import cryptography.hazmat.primitives.kdf.hkdf
    import filelock
    import watchdog.observers

    print(cryptography, filelock, watchdog, file=sys.stderr)  # imported here, so that no fault hits an import
    Signer(b"of nobody").sign(Purpose.MESSAGE, b"")
    for line in sys.stdin:
        case = json.loads(line)
        said_out, said_in = os.pipe()
        go_out, go_in = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(said_out)
            os.close(go_in)
            os._exit(_run(case, said_in, go_out))
        os.close(said_in)
        os.close(go_out)
        _answer({"pid": child, "said": said_out, "go": go_in, "fds": os.getpid()})
        sys.stdin.readline()  # the case is over
        os.close(said_out)
        os.close(go_in)
        _, status = os.waitpid(child, 0)
        _answer({"status": os.waitstatus_to_exitcode(status)})


def _answer(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _run(case: dict[str, str], said: int, go: int) -> int:
    def say(*words: Any) -> None:
        os.writev(said, [json.dumps(words).encode() + b"\n"])

    try:
        act = OPERATIONS[case["operation"]](case["place"], say)
        say("ready")
        os.read(go, 1)
        act()
    except errors.CoordinationError as error:
        say("refused", type(error).__name__, str(error))
        return 10
    except OSError as error:
        say("failed", type(error).__name__, str(error))
        return 11
    except BaseException:
        say("crashed", traceback.format_exc())
        return 12
    return 0


if __name__ == "__main__":
    serve_cases()
