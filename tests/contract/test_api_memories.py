"""Memories by HTTP: the shapes that are described, and the answers of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import jsonschema
import pytest
import support
from schemas import validate
from wire import Served

from mnemo_coord.api.openapi import document


@pytest.fixture
def served(state_dir: Path, port_base: int) -> Iterator[Served]:
    with Served(state_dir, port_base) as served:
        yield served
        assert served.stop() == 0
        assert "Traceback" not in served.log


def test_memories_by_http(served: Served, state_dir: Path) -> None:
    assert served.ask("/memories").json == []
    assert served.ask("/overview").json["memory"] is None
    assert not list(state_dir.parent.parent.rglob("*.db")), "looking makes nothing"
    body = {
        "content": "über \u202e\x1b[31m alles",
        "namespace": "project:p",
        "importance": 9,
        "tags": ["t"],
        "context": "c",
    }
    stored = served.ask("/memories", method="POST", body=body)
    assert stored.status == 200
    validate(stored.json, "memory")
    assert (stored.json["author_id"], stored.json["content"]) == (served.instance_id, body["content"])
    for number in range(3):
        served.ask("/memories", method="POST", body={"content": f"another {number}"})
    found = served.ask(f"/memories?query={quote('ALLES')}&namespace=project:p&limit=1")
    assert found.json == [stored.json]
    assert found.json == support.run("--dir", state_dir, "recall", "-q", "alles", "--json").json
    assert len(served.ask("/memories?limit=2").json) == 2
    for wrong in ("limit=0", "limit=x", "limit=1&limit=2", "what=x", "namespace=x", "query=", "query=%ED%A0%80"):
        assert served.ask(f"/memories?{wrong}").status in {200, 400}, wrong
    assert [served.ask(f"/memories?{wrong}").status for wrong in ("limit=0", "what=x", "namespace=x", "query=", "tag=")] == [
        400
    ] * 5
    for refused in (
        {},
        {"content": 7},
        {"content": "x", "mood": 1},
        {"content": "x", "namespace": "y"},
        {"content": "x", "tags": [7]},
    ):
        assert served.ask("/memories", method="POST", body=refused).status == 400, refused
    assert served.ask("/memories", method="POST", body={"content": "x" * 65_536}).status == 200
    assert served.ask("/memories", method="POST", body={"content": "x" * 65_537}).status == 400
    assert served.ask("/memories", method="POST", body={"content": "x" * 600_000}).status == 413
    assert served.ask("/memories", token="x").status == 401
    overview = served.ask("/overview").json
    schema = {"$ref": "#/components/schemas/Overview", "components": document()["components"]}
    jsonschema.Draft202012Validator(schema).validate(overview)
    assert (overview["memory"]["memories"], overview["memory"]["links"]) == (5, 0)
    assert [len(memory["content"]) for memory in overview["memory"]["recent"]][:1] == [201]
    assert "mnemosyne_memories 5" in served.ask("/metrics").body.decode()


def test_a_database_that_is_not_ours_is_not_shown(state_dir: Path, port_base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (state_dir.parent / "app.db").write_bytes(b"theirs " * 100)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{state_dir.parent}/app.db")
    with Served(state_dir, port_base) as served:
        assert served.ask("/overview").json["memory"] is None
        assert served.ask("/memories").status == 500
        assert served.stop() == 0
    assert (state_dir.parent / "app.db").read_bytes() == b"theirs " * 100
