"""The documentation says what the code does: generated parts, codes, links, commands, snippets, file names, who repairs what."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import click
import pytest
import support

from mnemo_coord import CoordinationError, Coordinator, EventKind, Settings
from mnemo_coord.cli.commands import root
from mnemo_coord.disk.files import CRASH_VARIABLE, CrashPoint

DOCS = support.REPOSITORY / "docs"
PACKAGE = support.REPOSITORY / "mnemo_coord"
SOURCE = "\n".join(path.read_text() for path in sorted(PACKAGE.rglob("*.py")))
PAGES = [
    *(support.REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted((support.REPOSITORY / "examples").rglob("*.md")),
]
FAST = Settings(heartbeat_interval=0.2, poll_interval=0.2)


def name_of(path: Path) -> str:
    return str(path.relative_to(support.REPOSITORY))


def page(name: str) -> str:
    return (DOCS / name).read_text()


def by_hand(text: str) -> str:
    """A page without what is generated."""
    return re.sub(r"<!-- generated: .*?<!-- end -->", "", text, flags=re.DOTALL)


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every row of every table."""
    for line in text.splitlines():
        if line.startswith("| ") and not set(line) <= set("|- "):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def fences(text: str, language: str) -> Iterator[tuple[str, bool]]:
    """Every block of a language, and whether it is to be run."""
    for found in re.finditer(rf"(<!-- not run -->\n)?^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield found[2], found[1] is None


# Generated


@cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CODES: dict[str, tuple[str, str]] = generator().finding_codes()
"""Of every finding, with its severity and the module that finds it. All of the code is read for it: once is enough."""


def test_what_is_generated_is_up_to_date() -> None:
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_generated_part_is_in_a_page() -> None:
    used = set(re.findall(r"<!-- generated: ([a-z-]+) -->", "".join(path.read_text() for path in PAGES)))
    assert used == set(generator().PARTS)


# Codes and names


def error_codes() -> set[str]:
    def below(kind: type[CoordinationError]) -> Iterator[type[CoordinationError]]:
        yield kind
        for inner in kind.__subclasses__():
            yield from below(inner)

    return {kind.code for kind in below(CoordinationError)} | set(re.findall(r'complain\(\s*"([a-z-]+)"', SOURCE))


@pytest.mark.parametrize("code", sorted(error_codes()))
def test_every_error_code_has_a_heading(code: str) -> None:
    assert code in headings(page("reference/errors.md"))


def test_every_finding_code_has_a_heading_and_every_heading_is_one() -> None:
    found = CODES
    assert set(re.findall(r'\bcode="([a-z-]+)"', SOURCE)) <= set(found), "two ways of finding them agree"
    assert set(headings(page("reference/findings.md"))) - {"Findings"} == set(found)


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_finding_is_described_with_its_severity(code: str) -> None:
    severity = CODES[code][0]
    section = page("reference/findings.md").partition(f"\n## {code}\n")[2].partition("\n## ")[0]
    assert section.strip().startswith(f"{severity.capitalize()}.")


def test_every_variable_is_described() -> None:
    read = set(re.findall(r'"(MNEMOSYNE_[A-Z_]+)"', SOURCE))
    assert read
    assert {name for name in read if name not in page("reference/settings.md")} == set()


@pytest.mark.parametrize("point", list(CrashPoint))
def test_every_crash_point_has_a_row(point: CrashPoint) -> None:
    assert any(f"`{point}`" in row[0] for row in rows(by_hand(page("concepts/recovery.md"))))


def test_every_kind_of_event_is_described() -> None:
    described = {row[0].strip("`") for row in rows(by_hand(page("reference/events.md")))} - {"Kind"}
    assert described == set(EventKind)


def test_events_carry_what_the_page_says(state_dir: Path) -> None:
    said = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in rows(by_hand(page("reference/events.md")))}
    seen = []
    with Coordinator(
        state_dir, name="one", settings=Settings(heartbeat_interval=0.2, poll_interval=0.2, max_deliveries=1)
    ) as me:
        me.on_event(seen.append)
        with Coordinator(state_dir, settings=FAST) as other:
            other.send("one", "T", 1)
            other.send("one", "T", 2)
        me.send("one", "T", 3)
        new = state_dir / "coordination_queue" / f"name-{b'one'.hex()}" / "new"
        (new / "x.json").write_bytes(b"{}")
        (new / "x.json").chmod(0o600)
        with next(iter(me.receive(5))):
            pass
        next(iter(me.receive(5))).give_back()
        assert len([delivery.acknowledge() for delivery in me.receive(5)]) == 1
        support.wait_until(lambda: "instance_left" in {event.kind for event in seen})
    assert {event.kind for event in seen} >= {
        "instance_registered",
        "instance_left",
        "message_sent",
        "message_received",
        "message_acknowledged",
        "message_dead_lettered",
        "message_quarantined",
    }
    for event in seen:
        assert set(event.data) == said[event.kind], event


# State on disk

PLACEHOLDERS = {
    "<id>": "[0-9a-f]{8}",
    "<hex>": "(?:[0-9a-f]{2})+",
    "<box>": "(?:[0-9a-f]{8}|(?:name|role)-(?:[0-9a-f]{2})+)",
    "<file>": r"[A-Za-z0-9_-][A-Za-z0-9_.~-]*\.json",
    "<stamp>": "[0-9a-f]{16}",
    "<kind>": "(?:singleton|name)",
    "<sender>": "[A-Za-z0-9_-]+",
    "<pid>": "[0-9]+",
    "<time>": "[0-9]+",
    "<name>": "[a-z]+",
    "<anything>": ".+",
}


def documented_paths() -> list[re.Pattern[str]]:
    templates = [row[0].strip("`") for row in rows(by_hand(page("reference/state-on-disk.md"))) if len(row) == 4][1:]
    return [
        re.compile(
            "".join(PLACEHOLDERS.get(part, re.escape(part)) for part in re.split(r"(<\w+>)", template))
            + r"(?:\.[0-9]+)?(?:\.reason)?"
        )
        for template in templates
    ]


def sealed(path: Path) -> dict[str, object]:
    return json.loads(path.read_bytes().splitlines()[0])


def test_every_file_has_a_row_and_every_member_too(state_dir: Path) -> None:
    text = page("reference/state-on-disk.md")
    members = {row[0].strip("`") for row in rows(text) if len(row) == 2} | {"signature"}
    queue = state_dir / "coordination_queue"
    with Coordinator(
        state_dir, name="one", roles=["r"], settings=Settings(heartbeat_interval=0.2, poll_interval=0.2, max_deliveries=1)
    ) as me:
        me.send("one", "T", {})
        held = next(iter(me.receive(5)))
        me.send("@r", "T", {}, message_id="own-id")
        spoiled = queue / me.instance_id / "new" / "spoiled.json"
        spoiled.write_bytes(b"{}")
        spoiled.chmod(0o600)
        with me.claim("lamp"):
            next(iter(me.receive(5))).give_back()
            me.send("one", "T", {})
            (state_dir / "process_registry.json").write_bytes(b"broken")
            support.wait_until((state_dir / "quarantine").exists)
            support.wait_until((state_dir / "process_registry.json").exists)
            files = [path.relative_to(state_dir).as_posix() for path in state_dir.rglob("*") if path.is_file()]
            patterns = documented_paths()
            assert [path for path in files if not any(pattern.fullmatch(path) for pattern in patterns)] == []
            used = [pattern.pattern for pattern in patterns if any(pattern.fullmatch(path) for path in files)]
            assert len(used) >= 14, f"the test reaches too little: {used}"
            records = [
                state_dir / "instances" / f"{me.instance_id}.lock",
                state_dir / "instances" / f"{me.instance_id}.beat",
                state_dir / "claims" / f"singleton-{b'lamp'.hex()}.json",
                state_dir / "history.jsonl",
                next((queue / f"name-{b'one'.hex()}" / "new").iterdir()),
            ]
            for record in records:
                assert set(sealed(record)) <= members, record
                assert list(sealed(record))[-1] == "signature"
        held.acknowledge()


# Links, commands, snippets, site


def slug(heading: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+://", target):
            continue
        place, _, anchor = target.partition("#")
        found = (path.parent / place).resolve() if place else path
        assert found.exists(), target
        assert found.is_relative_to(support.REPOSITORY), target
        if anchor:
            assert anchor in {slug(heading) for heading in headings(found.read_text())}, target


def test_every_page_is_in_the_navigation() -> None:
    def named(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:  # type: ignore[attr-defined]
                yield from named(inner)

    site = tomllib.loads((support.REPOSITORY / "zensical.toml").read_text())
    listed = set(named(site["project"]["nav"]))
    decisions = {f"adr/{target}" for target in re.findall(r"\]\((\d[^)]+)\)", page("adr/index.md"))}
    assert listed | decisions == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def typed_commands() -> Iterator[tuple[str, list[str]]]:
    """Every call of mnemosyne on a line that begins with a prompt."""
    for path in PAGES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("$ ") and "mnemosyne" in line:
                words = shlex.shlex(line[2:], posix=True, punctuation_chars=True)
                words.whitespace_split, words.commenters = True, "#"
                call: list[str] = []
                for word in [*words, ";"]:
                    if set(word) <= set("();<>|&"):
                        if call[:1] == ["mnemosyne"]:
                            yield f"{name_of(path)}:{number}", call[1:]
                        call = []
                    else:
                        call.append(word)


@pytest.mark.parametrize(("place", "words"), list(typed_commands()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_typed_command_parses(place: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Command, "invoke", lambda *_: None)  # groups still find and parse what is below them
    root.main(args=words, prog_name="mnemosyne", standalone_mode=False)


def test_a_typed_command_that_does_not_exist_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Command, "invoke", lambda *_: None)
    for words in (["lst"], ["list", "--everybody"], ["receive"], ["config", "shw"]):
        with pytest.raises(click.UsageError):
            root.main(args=words, prog_name="mnemosyne", standalone_mode=False)
    assert len(list(typed_commands())) >= 25


def snippets() -> Iterator[tuple[str, str, bool]]:
    for path in PAGES:
        for number, (code, runs) in enumerate(fences(path.read_text(), "python"), 1):
            yield f"{name_of(path)}-{number}", code, runs


@pytest.mark.parametrize(("place", "code", "runs"), [pytest.param(*found, id=found[0]) for found in snippets()])
def test_every_snippet_compiles_and_runs(place: str, code: str, runs: bool, tmp_path: Path) -> None:
    compile(code, place, "exec")
    if not runs:
        return
    (tmp_path / "here").mkdir()
    env = {"MNEMOSYNE_DIR": str(tmp_path / "here" / ".mnemosyne")}
    argv = [sys.executable, "-W", "error", "-c", code]
    with support.Child(argv, tmp_path / "output", env=env, cwd=tmp_path / "here") as child:
        assert child.wait(30) == 0, child.log
        assert "Traceback" not in child.log
    doctor = support.run("--dir", tmp_path / "here" / ".mnemosyne", "doctor")
    assert doctor.returncode == 0, doctor.stdout


def test_what_a_snippet_prints_is_what_its_comment_says(tmp_path: Path) -> None:
    """Where a print is followed by a comment in a page, the comment is its output, unless it is a sentence."""
    expected = {
        "docs/tutorial/first-program.md": ["conflict - True"],
        "docs/how-to/hold-a-claim.md": ["conflict True"],
        "docs/how-to/handle-messages.md": ["() ('nobody-yet',)", "unknown-address"],
        "docs/how-to/tune.md": ["1.5"],
    }
    for name, outputs in expected.items():
        text = (support.REPOSITORY / name).read_text()
        blocks = [code for code, _ in fences(text, "python") if any(f"# {output}" in code for output in outputs)]
        place = tmp_path / name.replace("/", "-")
        place.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", blocks[0]], cwd=place, capture_output=True, text=True, check=True, timeout=30
        )
        for output in outputs:
            assert f"# {output}" in text
            assert output in done.stdout.splitlines(), (name, done.stdout)


def test_the_site_builds_without_warnings_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    shutil.copy(support.REPOSITORY / "zensical.toml", tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    zensical = Path(sys.executable).parent / "zensical"
    done = subprocess.run(
        [str(zensical), "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    built = list((tmp_path / "site").rglob("*.html"))
    assert len(built) > 30
    for path in built:
        outside = re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>", path.read_text())
        assert [tag for tag in outside if 'rel="canonical"' not in tag] == [], path


CANCELLED = """
import asyncio, os, sys
from mnemo_coord.aio import Coordinator

async def main():
    async with Coordinator(sys.argv[1], name="worker") as me:
        async def take():
            async for delivery in me.receive(timeout=30):
                raise AssertionError("cancelled before")
        task = asyncio.create_task(take())
        while not me.sync._member.receiver._waiters:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        await me.send("worker", "Work")
        new = me.fleet.state.path / "coordination_queue" / f"name-{b'worker'.hex()}" / "new"
        sent = os.listdir(new)
        for _ in range(150):  # the thread that was left behind takes it, or has given up after a second
            if os.listdir(new) != sent:
                break
            await asyncio.sleep(0.01)
        async for delivery in me.receive(timeout=5):
            async with delivery:
                print("got it", flush=True)

asyncio.run(main())
"""


def test_a_cancelled_receive_keeps_no_message(state_dir: Path, tmp_path: Path) -> None:
    """Use asyncio: what comes while the thread of a cancelled `receive` still waits is given back."""
    with support.python(CANCELLED, tmp_path / "out", state_dir) as child:
        assert child.wait() == 0, child.log
        assert "got it" in child.printed


# Who repairs what


def repaired_by_a_peer() -> set[str]:
    found: set[str] = set()
    for row in rows(by_hand(page("concepts/recovery.md"))):
        if len(row) == 3 and row[2].startswith("a live peer"):
            found |= set(re.findall(r"`([a-z-]+)`", row[0]))
    return found


COMING = {CrashPoint.LIFE_LOCK_CREATED, CrashPoint.LIFE_LOCK_TAKEN, CrashPoint.RECORD_WRITTEN, CrashPoint.MAILBOX_MADE}
COMING |= {CrashPoint.FIRST_BEAT_WRITTEN, CrashPoint.REGISTRY_LOCKED, CrashPoint.REGISTRY_REPLACED, CrashPoint.CLAIM_RECORDED}
LEAVING = {CrashPoint.LEAVE_RECORD_REMOVED, CrashPoint.LEAVE_MAILBOX_REMOVED}
REAPING = {CrashPoint.REAP_LOCKED, CrashPoint.REAP_MESSAGES_RETURNED, CrashPoint.REAP_RECORD_REMOVED}
HOLDING = {CrashPoint.MESSAGE_CLAIMED, CrashPoint.MESSAGE_HANDLED, CrashPoint.MESSAGE_ACK_NOTED}

VISITOR = """
import sys
from mnemo_coord import Coordinator
me = Coordinator(sys.argv[1], name="visitor", roles=["work"])
me.register()
for delivery in me.receive(timeout=5):
    break  # it leaves with a message in hand
me.unregister()
"""

WORKER = """
import sys
from mnemo_coord import Coordinator
with Coordinator(sys.argv[1], name="worker") as me:
    for delivery in me.receive(timeout=5):
        with delivery:
            pass
"""


def test_every_row_with_a_peer_is_tried() -> None:
    assert {CrashPoint(point) for point in repaired_by_a_peer()} == COMING | LEAVING | REAPING | HOLDING


def problems(state_dir: Path) -> list[str]:
    found = support.run("--dir", state_dir, "doctor", "--json").json["findings"]
    return [finding["code"] for finding in found if finding["severity"] != "notice"]


def nothing_left(state_dir: Path, peer: str) -> bool:
    left = {path.name.partition(".")[0] for path in (state_dir / "instances").iterdir()} - {peer}
    return not left and problems(state_dir) == []


@pytest.mark.parametrize("point", sorted(COMING | LEAVING | HOLDING))
def test_a_live_peer_repairs_it(point: CrashPoint, state_dir: Path, tmp_path: Path) -> None:
    """What recovery.md leaves to a live peer is repaired without the doctor, and no message stays in dead hands."""
    with support.Serve(state_dir) as peer:
        address = "worker" if point in HOLDING else "@work"
        if point not in COMING:
            support.run("--dir", state_dir, "send", "--to", address, "Work")
        program = WORKER if point in HOLDING else VISITOR
        with support.python(program, tmp_path / "crash", state_dir, env={CRASH_VARIABLE: point}) as child:
            assert child.wait() == -signal.SIGKILL, child.log
        support.wait_until(lambda: nothing_left(state_dir, peer.instance_id), 8, "left over after the crash")
        if point not in COMING:
            received = support.run("--dir", state_dir, "receive", "--as", address, "--timeout", 2)
            assert received.returncode == (5 if point is CrashPoint.MESSAGE_ACK_NOTED else 0)


@pytest.mark.parametrize("point", sorted(REAPING))
def test_a_live_peer_finishes_what_a_reaper_began(point: CrashPoint, state_dir: Path) -> None:
    with support.Serve(state_dir) as peer, support.Serve(state_dir, "--name", "victim") as victim:
        peer.wait_for(f"Instance {victim.instance_id}")
        peer.send_signal(signal.SIGSTOP)  # so that the doctor is first
        victim.kill()
        doctor = support.run("--dir", state_dir, "doctor", "--fix", env={CRASH_VARIABLE: point})
        assert doctor.returncode == -signal.SIGKILL
        peer.send_signal(signal.SIGCONT)
        support.wait_until(lambda: nothing_left(state_dir, peer.instance_id), 8, "left over after the crash")
