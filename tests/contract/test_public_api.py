"""The Python API as other programs may rely on it: the contract's example, what is exported, what importing costs."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import support

import mnemo_coord
from mnemo_coord import CoordinationError, Coordinator, Settings, aio, errors

FAST = Settings(heartbeat_interval=0.2, poll_interval=0.2)
HEAVY = {
    "click",
    "orjson",
    "filelock",
    "watchdog",
    "cryptography",
    "psutil",
    "asyncio",
    "uvicorn",
    "starlette",
    "typing",
    "logging",
}


def test_the_contracts_example(state_dir: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as other, Coordinator(state_dir, roles=["reviewer"], settings=FAST) as reviewer:
        with Coordinator(state_dir, name="planner", settings=FAST) as me:
            assert len(me.instance_id) == 8
            receipt = me.send(other.instance_id, "JoinRequest", {"branch": "main"})
            assert (receipt.delivered, receipt.waiting, receipt.failed) == ((other.instance_id,), (), ())
            assert me.send("@reviewer", "ReviewRequest", {"pr": 42}).delivered == ("@reviewer",)
            assert set(me.broadcast("ConflictNotification", {"path": "src/app.py"}).delivered) == {
                other.instance_id,
                reviewer.instance_id,
            }
            got = []
            for delivery in other.receive(timeout=5):
                with delivery as message:
                    got.append((message.from_agent, message.to_agent, message.message_type, message.payload))
            assert got == [
                (me.instance_id, other.instance_id, "JoinRequest", {"branch": "main"}),
                (me.instance_id, None, "ConflictNotification", {"path": "src/app.py"}),
            ]
            statuses = {instance.instance_id: instance.status for instance in me.instances()}
            assert statuses == {me.instance_id: "alive", other.instance_id: "alive", reviewer.instance_id: "alive"}
            with me.claim("whatsapp"), pytest.raises(errors.Conflict):
                other.claim("whatsapp")
            with other.claim("whatsapp"):
                pass


def test_register_and_unregister_by_hand(state_dir: Path) -> None:
    me = Coordinator(state_dir, settings=FAST)
    with pytest.raises(errors.Conflict) as caught:
        me.send("x-y", "T")
    assert caught.value.hint
    first = me.register()
    with pytest.raises(errors.Conflict):
        me.register()
    me.heartbeat()
    assert me.cleanup_stale() == []
    me.unregister()
    me.unregister()
    assert me.register() != first, "a new start is a new instance"
    me.unregister()


def test_one_name_one_holder(state_dir: Path) -> None:
    with Coordinator(state_dir, name="planner", settings=FAST) as me:
        second = Coordinator(state_dir, name="planner", settings=FAST)
        with pytest.raises(errors.Conflict) as caught:
            second.register()
        assert caught.value.holder == me.instance_id
        assert len(me.instances()) == 1, "the refused one left nothing behind"
    with Coordinator(state_dir, name="planner", settings=FAST):
        pass


def test_every_error_has_a_code_and_a_hint_where_one_helps(state_dir: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me, pytest.raises(CoordinationError) as caught:
        me.send("01234567", "T")
    assert (caught.value.code, bool(caught.value.hint), caught.value.address) == ("unknown-address", True, "01234567")


def public(kind: type) -> dict[str, object]:
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize("name", sorted(set(mnemo_coord.__all__) - {"__version__"}))
def test_what_is_public_is_documented(name: str) -> None:
    exported = getattr(mnemo_coord, name)
    assert inspect.getdoc(exported)
    for member_name, member in public(exported).items():
        if inspect.isfunction(member) or isinstance(member, (property, classmethod)):
            assert inspect.getdoc(member), f"{name}.{member_name}"


def test_the_list_of_names_is_the_truth() -> None:
    assert set(dir(mnemo_coord)) == set(mnemo_coord.__all__)
    assert set(mnemo_coord._HOME) | {"__version__"} == set(mnemo_coord.__all__)
    with pytest.raises(AttributeError):
        mnemo_coord.nothing  # noqa: B018


def test_the_mirror_has_the_same_names_and_parameters() -> None:
    mirrored, original = public(aio.Coordinator), public(Coordinator)
    assert set(mirrored) - {"name", "roles"} == set(original), "those two are plain attributes of the original"
    for name, member in original.items():
        if not inspect.isfunction(member):
            assert isinstance(mirrored[name], property) == isinstance(member, property)
            continue
        ours = list(inspect.signature(mirrored[name]).parameters.values())  # type: ignore[arg-type]
        theirs = list(inspect.signature(member).parameters.values())
        if name == "send":  # passes its options on as they are
            continue
        assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs], name


def test_the_mirror_works(state_dir: Path) -> None:
    async def talk() -> list[object]:
        async with (
            aio.Coordinator(state_dir, settings=FAST) as one,
            aio.Coordinator(state_dir, name="two", settings=FAST) as two,
        ):
            pushed: list[object] = []
            two.on_event(lambda event: pushed.append(event.kind))
            await one.send("two", "T", 1)
            got: list[object] = []
            async for delivery in two.receive(timeout=5):
                async with delivery as message:
                    got.append(message.payload)
            with pytest.raises(KeyError):
                await one.send("two", "T", 2)
                async for delivery in two.receive(timeout=5):
                    async with delivery:
                        raise KeyError
            async for delivery in two.receive(timeout=5):
                got.append(delivery.delivery)
                await delivery.acknowledge()
            async with await one.claim("lamp") as claim:
                got.append(claim.epoch)
            async with await one.own(state_dir.parent / "db"):
                pass
            got.append(len(await one.instances()))
            assert [delivery async for delivery in two.receive(timeout=0.05)] == []
            calls: list[object] = []
            two.on_message(lambda message: calls.append(message.payload))
            await one.send("two", "T", 3)
            await asyncio.to_thread(support.wait_until, lambda: calls)
            assert "message_received" in pushed
            return [*got, *calls]

    assert asyncio.run(talk()) == [1, 2, 1, 2, 3]


def test_a_cancelled_own_keeps_no_lock(state_dir: Path) -> None:
    async def cancelled() -> None:
        file = state_dir.parent / "db"
        async with aio.Coordinator(state_dir, settings=FAST) as me:
            held = await me.own(file)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await me.own(file, retry=30)
            held.release()
            await asyncio.sleep(0.1)  # the thread that was left behind gets it
            async with await me.own(file, component="it", retry=10):
                pass

    asyncio.run(cancelled())


def loaded_by(*argv: str) -> set[str]:
    return {name.partition(".")[0] for name in modules_loaded_by(*argv)}


def modules_loaded_by(*argv: str) -> set[str]:
    code = f"import sys, runpy\nsys.argv = {['mnemosyne', *argv]!r}\n"
    code += "import mnemo_coord\n" if not argv else "from mnemo_coord.cli.main import main\nmain()\n"
    code += "import json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_and_asking_for_the_version_load_nothing() -> None:
    bare = subprocess.run(
        [sys.executable, "-S", "-c", "import sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = HEAVY - set(json.loads(bare.stdout))
    assert loaded_by() & heavy == set()
    assert loaded_by("--version") & (heavy - {"logging"}) <= {"typing"} & loaded_by()


def test_a_short_command_starts_no_watcher_and_asks_for_no_lock(state_dir: Path) -> None:
    assert support.run("--dir", state_dir, "send", "--to", "inbox", "T").returncode == 0
    assert (
        loaded_by("--dir", str(state_dir), "send", "--to", "inbox", "T")
        & {"watchdog", "filelock", "psutil", "asyncio", "uvicorn"}
        == set()
    )
    unused = {"watchdog", "filelock", "psutil", "asyncio", "uvicorn", "sqlite3", "tenacity"}
    assert loaded_by("--dir", str(state_dir), "list") & unused == set()


def test_a_list_loads_only_what_a_list_shows(state_dir: Path) -> None:
    """Fleets are listed by scripts and prompts, and half of the time of a list is importing."""
    assert support.run("--dir", state_dir, "send", "--to", "inbox", "T").returncode == 0
    loaded = modules_loaded_by("--dir", str(state_dir), "list", "--json")
    rooms = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("mnemo_coord.")}
    assert rooms & {f"mnemo_coord.{room}" for room in ("fleet", "messages", "holdings", "membership", "instances")} == set()
    assert "mnemo_coord.roster" in loaded
