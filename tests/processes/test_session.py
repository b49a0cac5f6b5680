"""The session of the README: two terminals that find each other, a message between them, a death that is noticed."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import support


def test_two_terminals(state_dir: Path, port_base: int) -> None:
    with support.Serve(state_dir, "--with-api", "--api-addr", f"127.0.0.1:{port_base}") as first:
        first.wait_for(f"INFO API server [{first.instance_id}] listening on http://127.0.0.1:{port_base}")
        with support.Serve(state_dir, "--with-api", "--api-addr", f"127.0.0.1:{port_base}") as second:
            second.wait_for(f"INFO Port {port_base} in use, trying alternative ports...")
            second.wait_for(f"INFO API server [{second.instance_id}] listening on http://127.0.0.1:{port_base + 1}")
            with urllib.request.urlopen(f"http://127.0.0.1:{port_base}/health", timeout=5) as answer:
                health = json.load(answer)
            assert health == {"status": "ok", "version": health["version"], "instance_id": first.instance_id, "subscribers": 0}

            listed = support.run("--dir", state_dir, "list", "--json").json
            assert {entry["instance_id"]: entry["status"] for entry in listed} == {
                first.instance_id: "alive",
                second.instance_id: "alive",
            }

            sent = support.run("--dir", state_dir, "send", "--to", second.instance_id, "JoinRequest", '{"branch":"main"}')
            assert sent.returncode == 0, sent.stderr
            second.wait_for("Message JoinRequest from cli")

            second.kill()
            first.wait_for(f"WARN Instance {second.instance_id} died")
            support.wait_until(lambda: support.status_of(state_dir, second.instance_id) is None)

        fixed = support.run("--dir", state_dir, "doctor", "--fix")
        assert fixed.returncode == 0, fixed.stdout
        assert first.stop() == 0
    assert support.run("--dir", state_dir, "list", "--json").json == []
