"""The HTTP API does what its description says, and the description is one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import support
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families
from wire import Served

from mnemo_coord import Coordinator, EventKind, Settings
from mnemo_coord.api import openapi
from mnemo_coord.api.metrics import text
from mnemo_coord.api.openapi import document

SCHEMAS = support.REPOSITORY / "docs" / "reference" / "schemas"
FAST = Settings(heartbeat_interval=0.2, poll_interval=0.2)


@pytest.fixture
def served(state_dir: Path, port_base: int) -> Iterator[Served]:
    with Served(state_dir, port_base) as served:
        yield served
        assert served.stop() == 0
        assert "Traceback" not in served.log


def test_the_description_is_valid_and_served(served: Served) -> None:
    described = served.ask("/openapi.json").json
    assert described == json.loads(json.dumps(document()))
    validate(described)


def test_every_route_is_described_and_every_described_route_is_there(served: Served) -> None:
    described = set(document()["paths"])
    page = (support.REPOSITORY / "docs" / "reference" / "http.md").read_text()
    for path in described - {"/instances/{who}"}:
        assert f"{path}`" in page, f"{path} is in no row"
    for path, methods in document()["paths"].items():
        for method in methods:
            answer = served.ask(path.replace("{who}", served.instance_id), method=method.upper()) if path != "/events" else None
            assert answer is None or answer.status in {200, 400, 415}, (path, answer)


def test_answers_have_the_shapes_that_are_described(served: Served, state_dir: Path) -> None:
    with Coordinator(state_dir, name="planner", roles=["r"], settings=FAST) as me:
        me.report("stuck", "x")
        me.claim("lamp")
        me.branches.join("main", files=["src/a"], mode="coordinated")
        near = support.run(
            "--dir",
            state_dir,
            "branch",
            "join",
            "main",
            "--files",
            "src/b",
            "--mode",
            "coordinated",
            "--for",
            served.instance_id,
        )
        assert near.returncode == 0
        served.ask("/messages", method="POST", body={"to": "@later", "type": "T", "payload": None})
        served.ask("/messages", method="POST", body={"to": "planner", "type": "T"})
        next(iter(me.receive(5))).acknowledge()
        me.heartbeat()
        (state_dir / "instances" / "0123abcd.beat").touch(0o600)
        served.ask("/overview")
        for path in (
            "/health",
            "/instances",
            "/instances/planner",
            "/mailboxes",
            "/claims",
            "/branches",
            "/doctor",
            "/overview",
        ):
            answer = served.ask(path)
            assert answer.status == 200, path
            described = document()["paths"]["/instances/{who}" if path == "/instances/planner" else path]["get"]["responses"]
            schema = described["200"]["content"]["application/json"]["schema"]
            whole = {**schema, "components": document()["components"]}  # where its references lead
            jsonschema.Draft202012Validator(whole).validate(answer.json)
        overview = served.ask("/overview").json
        for filled in ("instances", "usage", "mailboxes", "claims", "branches", "conflicts", "flows"):
            assert overview[filled], f"{filled} was never looked at"
        assert served.ask("/doctor").json["findings"]
        error = document()["components"]["schemas"]["Error"]
        for refused in (served.ask("/instances/nobody"), served.ask("/none"), served.ask("/instances", token="x")):
            jsonschema.Draft202012Validator(error).validate(refused.json)


def test_answers_are_those_of_the_command_line(served: Served, state_dir: Path) -> None:
    """Every surface is one path."""

    def steady(instances: list[dict[str, object]]) -> list[dict[str, object]]:
        return [{**instance, "last_heartbeat": 0, "heartbeat_age": 0} for instance in instances]

    run = support.run
    assert steady(served.ask("/instances").json) == steady(run("--dir", state_dir, "list", "--json").json)
    assert served.ask("/doctor").json == run("--dir", state_dir, "doctor", "--json").json
    assert run("--dir", state_dir, "branch", "join", "main", "--for", served.instance_id).returncode == 0
    assert served.ask("/branches").json == run("--dir", state_dir, "branch", "status", "--json").json != []
    assert served.ask("/overview").json["branches"] == served.ask("/branches").json[0]["assignments"]
    assert served.ask("/mailboxes").json == run("--dir", state_dir, "queue", "--json").json
    sent = served.ask("/messages", method="POST", body={"to": "later", "type": "T", "from": "ci"}).json
    ours = run("--dir", state_dir, "send", "--to", "later", "T", "--from", "ci", "--json").json
    assert {**sent, "id": 0} == {**ours, "id": 0}
    received = [json.loads(line) for line in run("--dir", state_dir, "receive", "--as", "later", "--json").stdout.splitlines()]
    assert [message["from_agent"] for message in received] == ["ci", "ci"]


def test_messages_by_http(served: Served, state_dir: Path) -> None:
    def send(**body: object) -> tuple[int, dict[str, object]]:
        answer = served.ask("/messages", method="POST", body=body)
        return answer.status, answer.json

    with Coordinator(state_dir, settings=FAST) as me:
        assert send(to=me.instance_id, type="T", payload={"n": 1})[1]["delivered"] == [me.instance_id]
        assert send(all=True, type="T")[1]["delivered"] == [me.instance_id]
        assert send(all=True, type="T", **{"from": "ci"})[0] == 200
        messages = []
        for delivery in me.receive(5):
            with delivery as message:
                messages.append(message)
        assert [message.from_agent for message in messages] == [served.instance_id, served.instance_id, "ci"]
        assert send(to="0123abcd", type="T")[0] == 404
        assert send(to="0123abcd", type="T", **{"from": "ci"})[0] == 404
        assert send(to="later", type="T", payload="x" * 1200)[0] == 413
        assert send(to="later", type="T", message_id="m1", payload=1)[0] == 200
        assert send(to="later", type="T", message_id="m1", payload=1)[1]["duplicate"] is True
        assert send(to="later", type="T", message_id="m1", payload=2)[0] == 409
        assert send(to="../x", type="T")[0] == 400
        assert send(to="later", type="\x1b")[0] == 400
        assert send(to="later", type="T", ttl=-1)[0] == 400


def test_states_by_http(served: Served, state_dir: Path) -> None:
    with Coordinator(state_dir, name="builder", settings=FAST) as me:
        said = {"kind": "agent_state", "instance_id": "builder", "data": {"state": "waiting", "text": "é"}}
        assert served.ask("/events/emit", method="POST", body=said).json["text"] == "é"
        assert [i.report.text for i in me.instances() if i.report] == ["é"]
        for who, status in ((me.instance_id, 200), (served.instance_id, 200), ("nobody", 404), ("0123abcd", 404)):
            assert served.ask("/events/emit", method="POST", body={**said, "instance_id": who}).status == status
        for data in ({"state": "asleep"}, {"state": "idle", "text": "x" * 201}, {"state": "idle", "text": None}):
            assert served.ask("/events/emit", method="POST", body={"kind": "agent_state", "data": data}).status == 400
        assert (
            served.ask("/events/emit", method="POST", body={"kind": "instance_died", "data": {"state": "idle"}}).status == 400
        )


def test_metrics_can_be_read_by_prometheus(served: Served, state_dir: Path) -> None:
    with Coordinator(state_dir, name="planner", settings=FAST) as me:
        served.ask("/messages", method="POST", body={"to": "planner", "type": "T", "from": "ci"})
        next(iter(me.receive(5))).acknowledge()
        me.heartbeat()
        answer = served.ask("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
        value = {(s.name, *sorted(s.labels.values())): s.value for family in families.values() for s in family.samples}
        assert value["mnemosyne_instances", "alive"] == 2
        assert value["mnemosyne_mailbox_waiting", "planner"] == 0
        assert value["mnemosyne_messages_received_total", *sorted(("ci", me.instance_id))] == 1
        assert value["mnemosyne_process_resident_bytes", served.instance_id] > 10_000_000
        assert all(family.documentation for family in families.values())


def test_labels_of_metrics_cannot_forge_lines(state_dir: Path) -> None:
    from dataclasses import replace

    from mnemo_coord import Fleet
    from mnemo_coord.messages.traffic import Flow
    from mnemo_coord.overview import Viewer

    with Fleet.open(state_dir) as fleet:
        odd = 'a"} 1\nmnemosyne_forged 7\\\udc80'
        overview = replace(Viewer(fleet).look(), flows=(Flow(from_agent=odd, to_agent="b", count=1, age=0.0),))
    names = {sample.name for family in text_string_to_metric_families(text(overview, 0)) for sample in family.samples}
    assert "mnemosyne_forged" not in names
    assert "mnemosyne_messages_received_total" in names


def test_the_schema_of_an_event_names_every_kind() -> None:
    schema = json.loads((SCHEMAS / "event.json").read_text())
    assert schema["properties"]["kind"]["enum"] == [str(kind) for kind in EventKind]


def test_shapes_of_types() -> None:
    defined: dict[str, object] = {}
    assert openapi.shape(list[str], defined) == {"type": "array", "items": {"type": "string"}}
    assert openapi.shape(float | None, defined) == {"anyOf": [{"type": "number"}, {"type": "null"}]}
    assert openapi.shape(dict[str, int], defined) == {"type": "object", "additionalProperties": {"type": "integer"}}
    assert defined == {}


@pytest.mark.timeout(240)
def test_schemathesis_finds_no_fault(served: Served) -> None:
    """Everything but the stream, which has no end that it could wait for."""
    argv = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"http://127.0.0.1:{served.port}/openapi.json", "--no-color",
        "-H", f"Authorization: Bearer {served.token}", "--exclude-path", "/events", "--max-examples", "15",
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=230, cwd=Path(served.out).parent)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
