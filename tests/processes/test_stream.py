"""Event streams: whole from the start, resumed without a hole, bounded, ended in time; what one instance sees reaches its readers at once."""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import support
from wire import Served

from mnemo_coord import Coordinator, Settings
from mnemo_coord.client import Api, ApiSource, DirectorySource

FAST = Settings(heartbeat_interval=0.2, poll_interval=0.2)


@pytest.fixture
def served(state_dir: Path, port_base: int) -> Iterator[Served]:
    with Served(state_dir, port_base) as served:
        yield served
        assert served.stop() == 0
        assert "Traceback" not in served.log


def report(served: Served, text: str) -> None:
    body = {"kind": "agent_state", "data": {"state": "working", "text": text}}
    assert served.ask("/events/emit", method="POST", body=body).status == 200


def test_the_whole_state_comes_first_then_what_happens(served: Served, state_dir: Path) -> None:
    with Coordinator(state_dir, name="planner", roles=["reviewer"], settings=FAST) as me:
        me.report("waiting", "for a person")
        support.wait_until(lambda: any(i["instance_id"] == me.instance_id for i in served.ask("/instances").json))
        with served.stream() as stream:
            frames = stream.frames()
            first = next(frames)
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert (first.kind, first.id) == ("snapshot", first.data["last_event_id"])
            seen = {instance["instance_id"]: instance for instance in first.data["instances"]}
            assert set(seen) == {served.instance_id, me.instance_id}
            assert seen[me.instance_id]["report"]["text"] == "for a person"
            assert first.data["instance_id"] == served.instance_id
            assert {box["address"] for box in first.data["mailboxes"]} == {
                served.instance_id,
                me.instance_id,
                "planner",
                "@reviewer",
            }
            assert [claim["claim"] for claim in first.data["claims"]] == ["planner"]
            assert served.ask("/health", token=None).json["subscribers"] == 1
            me.send(served.instance_id, "Hello", {"n": 1})
            received = next(frame for frame in frames if frame.kind == "message_received")
            assert received.data["data"]["from_agent"] == me.instance_id
            assert received.data["data"]["to"] == served.instance_id
            assert next(frames).kind == "message_acknowledged"
            me.report("stuck", "no key")
            said = next(frame for frame in frames if frame.kind == "agent_state")
            assert (said.data["instance_id"], said.data["data"]) == (me.instance_id, {"state": "stuck", "text": "no key"})


def test_a_reader_that_comes_back_misses_nothing(served: Served) -> None:
    with served.stream() as stream:
        begun = stream.until("snapshot").id
        report(served, "1")
        last = stream.until("agent_state").id
    assert begun is not None
    for number in range(2, 10):
        report(served, str(number))
    with served.stream(Last_Event_ID=str(last)) as stream:
        frames = stream.frames()
        first = next(frames)
        assert (first.kind, first.id) == ("snapshot", None), "it must not move the reader on"
        events, said = [], []
        while len(said) < 8:
            events.append(next(frames))
            said += [events[-1].data["data"]["text"]] if events[-1].kind == "agent_state" else []
    assert said == [str(number) for number in range(2, 10)]
    assert [frame.id for frame in events] == list(range((last or 0) + 1, (last or 0) + 1 + len(events)))


def test_what_is_no_longer_kept_is_told_as_a_gap(state_dir: Path, port_base: int) -> None:
    with Served(state_dir, port_base, "--api-capacity", "5") as served:
        for number in range(20):
            report(served, str(number))
        last = served.ask("/overview").json["last_event_id"]
        with served.stream(Last_Event_ID="2") as stream:
            frames = list(itertools.islice(stream.frames(), 8))
        assert [frame.kind for frame in frames[:3]] == ["snapshot", "gap", "snapshot"]
        assert frames[1].data == {"missed": last - 5 - 2}
        assert [frame.id for frame in frames[3:]] == list(range(last - 4, last + 1))


@pytest.mark.parametrize("resume", ["999999", "9" * 40, "-1", "x", "", "1e3"])
def test_an_id_that_is_none_of_ours(resume: str, served: Served) -> None:
    """A15."""
    with served.stream(Last_Event_ID=resume) as stream:
        frames = stream.frames()
        first = next(frames)
        if resume == "999999":
            assert (first.kind, first.data) == ("gap", {"missed": None})
            first = next(frames)
        assert (first.kind, first.id) == ("snapshot", first.data["last_event_id"])


def test_a_stream_that_asks_for_it_is_kept_up_to_date(served: Served, state_dir: Path) -> None:
    with served.stream("?refresh=1") as stream:
        snapshots = (frame for frame in stream.frames() if frame.kind == "snapshot")
        next(snapshots)
        with Coordinator(state_dir, settings=FAST) as me:
            came = time.monotonic()
            assert any(
                me.instance_id in {i["instance_id"] for i in frame.data["instances"]}
                for frame in itertools.islice(snapshots, 3)
            )
            assert time.monotonic() - came < 1
        begun = time.monotonic()
        assert len(list(itertools.islice(snapshots, 4))) == 4
        assert time.monotonic() - begun < 8


def test_findings_are_told_and_that_they_are_gone(served: Served, state_dir: Path) -> None:
    with served.stream("?refresh=1") as stream:
        frames = stream.frames()
        next(frames)
        (state_dir / "instances").chmod(0o755)  # perhaps while the doctor looks, who then says at first that it is unreadable

        def told(kind: str) -> Any:
            of_kind = (frame.data["data"] for frame in frames if frame.kind == kind)
            return next(data for data in of_kind if data["code"] == "mode-too-open")

        found = told("finding_found")
        assert found["subject"] == "instances"
        assert "doctor --fix" in found["hint"]
        shown = next(frame for frame in frames if frame.kind == "snapshot")
        assert any(finding["code"] == "mode-too-open" for finding in shown.data["findings"])
        assert support.run("--dir", state_dir, "doctor", "--fix").returncode == 0
        assert told("finding_fixed")["subject"] == "instances"


def test_a_death_reaches_a_reader_within_50_ms_of_its_notice(served: Served, state_dir: Path) -> None:
    delays = []
    with served.stream() as stream:
        stream.until("snapshot")
        for _ in range(5):
            with support.Serve(state_dir) as victim:
                stream.until("instance_registered")
                begun = time.monotonic()
                victim.process.send_signal(signal.SIGKILL)
                victim.process.wait()
                ended = time.monotonic()
                told = stream.until("instance_died")
                assert told.data["instance_id"] == victim.instance_id
                delays.append(time.monotonic() - begun)
                assert ended <= told.at
    assert statistics.median(delays) < 0.1, "which counts the kernel's time to end the process"


def test_what_is_sent_reaches_a_reader_at_once(served: Served, state_dir: Path) -> None:
    delays = []
    with Coordinator(state_dir, settings=FAST) as me, served.stream() as stream:
        stream.until("snapshot")
        for _ in range(20):
            begun = time.monotonic()
            me.send(served.instance_id, "T")
            delays.append(stream.until("message_received").at - begun)
    assert statistics.median(delays) < 0.05


def test_ten_thousand_events_and_eight_slow_readers(state_dir: Path, port_base: int) -> None:
    """A11: memory is bounded, others are served, who does not read is cut off."""
    with Served(state_dir, port_base) as served, Coordinator(state_dir, settings=FAST) as me:
        slow = [served.stream() for _ in range(7)]
        with served.stream() as quick:
            with served.stream() as ninth:
                assert ninth.status == 503
            quick.until("snapshot")
            for _ in range(40):
                for _ in range(250):
                    me.send(served.instance_id, "T", {"text": "x" * 300})
                support.wait_until(lambda: not any(box["waiting"] for box in served.ask("/mailboxes").json["mailboxes"]))
            acknowledged = sum(1 for _ in itertools.takewhile(lambda n: n < 3000, (frame.id or 0 for frame in quick.frames())))
            assert acknowledged > 1000
            assert served.ask("/overview").json["last_event_id"] > 20_000
            rss = psutil.Process(served.pid).memory_info().rss
            print(f"resident after {served.ask('/overview').json['last_event_id']} events: {rss / 1e6:.1f} MB")
            assert rss < 50 * 2**20
        for stream in slow:
            stream.close()
        assert served.stop() == 0
        assert "Traceback" not in served.log


def test_a_reader_that_does_not_read_is_cut_off(served: Served, state_dir: Path) -> None:
    """A11, S15."""
    with Coordinator(state_dir, settings=FAST) as me:
        stream = served.stream()
        stream.socket.setsockopt(1, 8, 4096)  # SO_RCVBUF
        deadline = time.monotonic() + 40
        while served.ask("/health", token=None).json["subscribers"] and time.monotonic() < deadline:
            for _ in range(200):
                me.send(served.instance_id, "T", {"text": "x" * 600})
            support.wait_until(lambda: not any(box["waiting"] for box in served.ask("/mailboxes").json["mailboxes"]))
        assert served.ask("/health", token=None).json["subscribers"] == 0
        stream.close()


@pytest.mark.parametrize("reads", [True, False])
def test_it_stops_in_time_with_open_streams(reads: bool, state_dir: Path, port_base: int) -> None:
    """A14."""
    with Served(state_dir, port_base) as served, Coordinator(state_dir, settings=FAST) as me:
        streams = [served.stream("?refresh=1") for _ in range(8)]
        if reads:
            for stream in streams:
                stream.until("snapshot")
        else:
            for _ in range(3000):
                me.send(served.instance_id, "T", {"text": "x" * 600})
        begun = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - begun < 5
        assert "Traceback" not in served.log
        assert "ERROR" not in served.log
        if reads:
            assert all(list(stream.frames()) is not None for stream in streams), "they were ended, not cut off"
        for stream in streams:
            stream.close()


# Whoever follows


def test_a_source_follows_and_connects_again(state_dir: Path, port_base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from mnemo_coord import errors

    source = ApiSource(f"http://127.0.0.1:{port_base}", str(state_dir))
    with pytest.raises(errors.NotFound):
        next(source.follow())
    for _ in range(2):
        with Served(state_dir, port_base) as served:
            frames = source.follow()
            assert next(frames).data["instance_id"] == served.instance_id
            report(served, "x")
            assert next(frame for frame in frames if frame.kind == "event").data["kind"] == "agent_state"
            served.kill()
            with pytest.raises(errors.State):
                list(frames)
    with Served(state_dir, port_base) as served:
        token = served.token
        other = ApiSource(f"http://127.0.0.1:{port_base}", str(state_dir.parent / "elsewhere" / ".mnemosyne"))
        with pytest.raises(errors.NotFound):
            next(other.follow())
        monkeypatch.setenv("MNEMOSYNE_API_TOKEN", token)
        assert next(other.follow()).kind == "snapshot"
        frames = source.follow()
        next(frames)
        source.close()
        assert all(frame.kind in {"snapshot", "event"} for frame in frames), "what had come, and then the end"
        assert list(source.follow()) == []


def test_a_directory_is_followed_too(state_dir: Path) -> None:
    with Coordinator(state_dir, name="planner", settings=FAST) as me:
        source = DirectorySource(str(state_dir))
        frames = source.follow()
        first = next(frames)
        assert (first.kind, first.data["instance_id"]) == ("snapshot", None)
        assert [instance["name"] for instance in first.data["instances"]] == ["planner"]
        me.report("idle")
        said = next(frame for frame in frames if frame.kind == "event")
        assert (said.data["kind"], said.data["instance_id"]) == ("agent_state", me.instance_id)
        with Coordinator(state_dir, settings=FAST) as other:
            came = next(frame for frame in frames if frame.kind == "event")
            assert (came.data["kind"], came.data["instance_id"]) == ("instance_registered", other.instance_id)
        source.close()
        assert all(frame.kind in {"snapshot", "event"} for frame in frames)


def test_whoever_took_the_port_gets_no_token(state_dir: Path, port_base: int) -> None:
    """T8: the port of an instance that is stopped, or that never was its own."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    from mnemo_coord import Fleet, errors
    from mnemo_coord.client import api_of

    heard: list[str | None] = []

    class Impostor(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status":"ok"}')

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    impostor = HTTPServer(("127.0.0.1", port_base), Impostor)
    Thread(target=impostor.serve_forever, daemon=True).start()
    me = Coordinator(state_dir, settings=FAST)
    me.register(api=("127.0.0.1", port_base))
    with Fleet.open(state_dir, create=False) as fleet, pytest.raises(errors.NotFound):
        api_of(fleet, me.registration)
    me.unregister()
    impostor.shutdown()
    impostor.server_close()
    assert heard == [None]


def test_the_token_is_put_back_and_ends_with_its_instance(served: Served, state_dir: Path, port_base: int) -> None:
    path = state_dir / "instances" / f"{served.instance_id}.token"
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    support.wait_until(path.exists)
    assert served.ask("/instances", token=path.read_text().strip()).status == 200
    with Served(state_dir, port_base + 5) as other:
        theirs = state_dir / "instances" / f"{other.instance_id}.token"
        assert theirs.exists()
        other.kill()
        support.wait_until(lambda: not theirs.exists(), what="the reaper removes it")


def test_commands_for_the_shell(served: Served, state_dir: Path) -> None:
    opened = support.run("--dir", state_dir, "dashboard", "--json")
    assert opened.returncode == 0
    assert opened.json["url"].startswith(f"http://127.0.0.1:{served.port}/#code=")
    plain = support.run("--dir", state_dir, "dashboard", served.instance_id)
    assert plain.stdout.startswith("http://127.0.0.1:")
    assert len(plain.stdout.splitlines()) == 1
    assert support.run("--dir", state_dir, "dashboard", "nobody").returncode == 3

    said = support.run("--dir", state_dir, "report", "working", "on \x1b[31mred", "--as", served.instance_id, "--json")
    assert (said.returncode, said.json["state"], said.json["text"]) == (0, "working", "on \x1b[31mred")
    shown = support.run("--dir", state_dir, "list")
    assert r"working: on \x1b[31mred" in shown.stdout
    assert support.run("--dir", state_dir, "report", "asleep", "--as", served.instance_id).returncode == 2
    assert support.run("--dir", state_dir, "report", "idle").returncode == 2
    assert support.run("--dir", state_dir, "report", "idle", "--as", "nobody").returncode == 3
    assert support.run("--dir", state_dir, "report", "idle", "x" * 201, "--as", served.instance_id).returncode == 2

    argv = [support.MNEMOSYNE, "--dir", str(state_dir), "events", "--json"]
    followed = [
        support.Child([*argv, *more], state_dir.parent / "cli") for more in (["--follow"], ["--of", served.instance_id])
    ]
    watching = support.Child(
        [support.MNEMOSYNE, "--dir", str(state_dir), "list", "--watch", "--json"], state_dir.parent / "cli"
    )
    try:
        followed[0].wait_for("instance_registered")
        support.wait_until(lambda: served.ask("/health", token=None).json["subscribers"] == 1)
        support.wait_until(lambda: len(watching.printed.splitlines()) == 1)
        assert support.run("--dir", state_dir, "report", "stuck", "--as", served.instance_id).returncode == 0
        assert support.run("--dir", state_dir, "send", "--to", served.instance_id, "T").returncode == 0
        for child in followed:
            child.wait_for("agent_state")
        followed[1].wait_for("message_acknowledged")
        support.wait_until(lambda: len(watching.printed.splitlines()) == 2)
        assert json.loads(watching.printed.splitlines()[1])[0]["report"]["state"] == "stuck"
        for child in [*followed, watching]:
            assert child.stop(signal.SIGINT) == 130
            assert all(json.loads(line) for line in child.printed.splitlines())
    finally:
        for child in [*followed, watching]:
            child.__exit__()


def test_who_talks_to_whom(served: Served, state_dir: Path) -> None:
    """Counted by each receiver, and told with its heartbeat, so that one dashboard sees the messages of all."""
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        two.on_message(lambda message: None)
        for _ in range(3):
            one.send(two.instance_id, "T")
        support.run("--dir", state_dir, "send", "--to", two.instance_id, "T", "--from", "ci")

        def flows() -> bool:
            found = {(f["from_agent"], f["to_agent"]): f["count"] for f in served.ask("/overview").json["flows"]}
            return found == {(one.instance_id, two.instance_id): 3, ("ci", two.instance_id): 1}

        support.wait_until(flows)
    theirs = [f"{served.instance_id}.traffic"]
    names = lambda: [name for name in os.listdir(state_dir / "instances") if name.endswith(".traffic")]  # noqa: E731
    support.wait_until(lambda: names() == theirs, what="what was said goes with who said it")


def test_the_client_says_what_is_wrong(served: Served) -> None:
    from mnemo_coord import errors

    url = f"http://127.0.0.1:{served.port}"
    assert Api(url, served.token).call("GET", "/health")["status"] == "ok"
    with pytest.raises(errors.State, match="needs the token"):
        Api(url, "x").call("GET", "/instances")
    with pytest.raises(errors.State, match="refused"):
        Api("http://127.0.0.1:9", "x").call("GET", "/instances")
    for odd in ("", "127.0.0.1:3000", "https://127.0.0.1:3000", "http://127.0.0.1", "http://127.0.0.1:3000/x", "http://[::1"):
        with pytest.raises(errors.Config):
            Api(odd, "x")
