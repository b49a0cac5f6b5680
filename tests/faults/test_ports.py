"""Ports: the next free one is taken, a full range costs nothing else, and nobody who takes a port later is believed."""

from __future__ import annotations

import http.server
import json
import re
import socket
import threading
import urllib.request
from pathlib import Path

import pytest
import support


def occupy(port: int, host: str = "127.0.0.1") -> socket.socket:
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind((host, port))
    taken.listen()
    return taken


def health(port: int) -> dict[str, object]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
        return json.load(answer)


def test_a_busy_port_is_passed_over(state_dir: Path, port_base: int) -> None:
    """P1. On the loopback address and on every address."""
    for host in ("127.0.0.1", "0.0.0.0"):
        with occupy(port_base, host), support.Serve(state_dir, "--with-api", "--api-addr", f"127.0.0.1:{port_base}") as one:
            one.wait_for(f"INFO Port {port_base} in use, trying alternative ports...")
            assert health(port_base + 1)["instance_id"] == one.instance_id


def test_all_busy_is_a_warning_and_the_rest_works(state_dir: Path, port_base: int) -> None:
    """P2."""
    taken = [occupy(port) for port in range(port_base, port_base + 11)]
    try:
        with support.Serve(state_dir, "--with-api", "--api-addr", f"127.0.0.1:{port_base}") as one:
            one.wait_for(
                f"WARN All ports ({port_base}–{port_base + 10}) are in use. API server unavailable for instance "  # noqa: RUF001
                f"{one.instance_id}. Core functionality not affected."
            )
            assert support.run("--dir", state_dir, "send", "--to", one.instance_id, "T").returncode == 0
            one.wait_for("Message T")
            (entry,) = support.run("--dir", state_dir, "list", "--json").json
            assert entry["api_url"] is None
            assert one.stop() == 0
    finally:
        for socket_ in taken:
            socket_.close()


def listening() -> set[int]:
    """The ports that the kernel says are listened on at 127.0.0.1."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return {int(field[1].split(":")[1], 16) for field in fields if field[3] == "0A" and field[1].startswith("0100007F")}


def test_twenty_starts_share_eleven_ports(state_dir: Path, port_base: int) -> None:
    """P3."""
    argv = [support.MNEMOSYNE, "--dir", str(state_dir), "serve", "--with-api", "--api-addr", f"127.0.0.1:{port_base}"]
    slow = {"MNEMOSYNE_HEARTBEAT_INTERVAL": "2", "MNEMOSYNE_POLL_INTERVAL": "2"}
    children = [support.Child(argv, state_dir.parent / "many", env=slow) for _ in range(20)]
    try:
        for child in children:
            child.wait_for("is in the fleet at", 90)
        recorded = json.loads((state_dir / "process_registry.json").read_text())["instances"].values()
        ports = [record["api_port"] for record in recorded if record["api_port"] is not None]
        assert sorted(ports) == list(range(port_base, port_base + 11))
        assert set(ports) <= listening()
        assert sum("All ports" in child.log for child in children) == 9
        assert [child.stop(timeout=20) for child in children] == [0] * 20
    finally:
        for child in children:
            child.__exit__()


def test_a_port_that_nginx_took_is_not_ours(state_dir: Path, port_base: int, tmp_path: Path) -> None:
    """P6. The doctor says who has it, and leaves it alone."""
    with support.Serve(state_dir, "--with-api", "--api-addr", f"127.0.0.1:{port_base}") as one:
        one.kill()
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}} "
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port_base}; location / {{ return 200 'hello'; }} }} }}"
    )
    with support.Child(["nginx", "-c", str(config)], tmp_path / "nginx") as nginx:
        support.wait_until(lambda: port_base in listening())
        (entry,) = support.run("--dir", state_dir, "list", "--json").json
        assert (entry["status"], entry["api_url"]) == ("dead", None)
        found = support.run("--dir", state_dir, "doctor", "--json").json["findings"]
        stale = next(finding for finding in found if finding["code"] == "port-stale")
        assert "nginx" in stale["message"]
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
        assert nginx.process.poll() is None
        nginx.stop()


def test_a_fake_health_answer_proves_nothing(state_dir: Path, port_base: int) -> None:
    """T8. It has our id and status, and no key. The instance lives, and somebody else answers at its recorded port."""

    class Fake(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("X-Mnemosyne-Proof", "0" * 64)
            self.end_headers()
            self.wfile.write(b'{"status":"ok"}')

        def log_message(self, *args: object) -> None:
            pass

    from mnemo_coord import Coordinator

    with Coordinator(state_dir) as me, http.server.HTTPServer(("127.0.0.1", port_base), Fake) as fake:
        me.unregister()
        me.register(api=("127.0.0.1", port_base))
        threading.Thread(target=fake.serve_forever, daemon=True).start()
        found = support.run("--dir", state_dir, "doctor", "--json").json["findings"]
        assert "port-unproven" in {finding["code"] for finding in found}
        fake.shutdown()


def test_the_true_one_proves_itself(state_dir: Path, port_base: int) -> None:
    with support.Serve(state_dir, "--with-api", "--api-addr", f"127.0.0.1:{port_base}"):
        assert support.run("--dir", state_dir, "doctor", "--json").json == {"status": "healthy", "findings": []}


@pytest.mark.parametrize("address", ["0.0.0.0:3000", "[::]:3000", "192.0.2.1:3000", "example.org:3000"])
def test_other_machines_are_not_served(address: str, state_dir: Path) -> None:
    """P8, S9."""
    done = support.run("--dir", state_dir, "serve", "--with-api", "--api-addr", address)
    assert done.returncode == 2


def test_a_restart_after_a_kill_gets_the_same_port(state_dir: Path, port_base: int) -> None:
    for _ in range(3):
        with support.Serve(state_dir, "--with-api", "--api-addr", f"127.0.0.1:{port_base}") as one:
            assert health(port_base)["instance_id"] == one.instance_id
            one.kill()


def test_ipv6(state_dir: Path, port_base: int) -> None:
    with support.Serve(state_dir, "--with-api", "--api-addr", f"[::1]:{port_base}") as one:
        one.wait_for(f"listening on http://[::1]:{port_base}")
        with urllib.request.urlopen(f"http://[::1]:{port_base}/health", timeout=5) as answer:
            assert json.load(answer)["instance_id"] == one.instance_id


def test_health_tells_strangers_nothing(state_dir: Path, port_base: int) -> None:
    """A23."""
    with support.Serve(state_dir, "--with-api", "--name", "secretive", "--api-addr", f"127.0.0.1:{port_base}") as one:
        with urllib.request.urlopen(f"http://127.0.0.1:{port_base}/health", timeout=5) as answer:
            body, headers = answer.read().decode(), str(answer.headers)
        assert set(json.loads(body)) == {"status", "version", "instance_id", "subscribers"}
        assert not re.search(rf"secretive|{one.pid}|{re.escape(str(state_dir))}|[0-9a-f]{{32}}", body + headers)
        for path in ("/", "/instances", "/%2e%2e/secret", "/health/"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://127.0.0.1:{port_base}{path}", timeout=5)
