"""Branch work: one winner however many come at once, held by life, released by proof of death, rebuilt when its files are lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import support
from support import git

from mnemo_coord import Coordinator, Event, Fleet, Message, Settings, doctor, errors
from mnemo_coord.disk.files import CRASH_VARIABLE, CrashPoint
from mnemo_coord.holdings.assignments import draft

FAST = Settings(heartbeat_interval=0.2, poll_interval=0.1)


@pytest.fixture
def root(state_dir: Path) -> Path:
    """A repository with one commit; the fleet's state directory is in it."""
    folder = state_dir.parent
    git(folder, "init", "-q", "-b", "main")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    git(folder, "branch", "feature")
    return folder.resolve()


@pytest.fixture
def fleet(state_dir: Path) -> Iterator[Fleet]:
    with Fleet.open(state_dir, settings=FAST) as fleet:
        yield fleet


def branch(state_dir: Path, *args: object, **options: Any) -> support.Cli:
    return support.run("--dir", state_dir, "--json", "branch", *args, **options)


def holders(fleet: Fleet) -> list[tuple[str, str]]:
    return [(one.branch, one.instance_id) for one in fleet.branches.assignments()]


# One winner

CONTENDER = """
import sys
from mnemo_coord import Coordinator, errors
with Coordinator(sys.argv[1]) as me:
    print("ready", me.instance_id, flush=True)
    for line in sys.stdin:
        if line.startswith("release"):
            me.branches.release()
            print("released", flush=True)
            continue
        try:
            print("won", me.branches.join(line.strip()).epoch, flush=True)
        except errors.Conflict as refusal:
            print("lost", refusal.holder, flush=True)
"""


class Contender:
    def __init__(self, state_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(state_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Self:
        self.instance_id = self.hear()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def say(self, text: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def hear(self) -> list[str]:
        assert self.process.stdout
        return self.process.stdout.readline().split()


@pytest.mark.timeout(240)
def test_a_hundred_rounds_have_one_winner_each(state_dir: Path, root: Path) -> None:
    """B4, W1: six processes want the same branch at the same moment; all the others learn who has it."""
    with ExitStack() as stack:
        all_ = [stack.enter_context(Contender(state_dir)) for _ in range(6)]
        for number in range(100):
            for one in all_:
                one.say("main")
            said = {one.instance_id: one.hear() for one in all_}
            winners = [who for who, answer in said.items() if answer[0] == "won"]
            assert len(winners) == 1, f"round {number}: {said}"
            assert {answer[1] for answer in said.values() if answer[0] == "lost"} == {winners[0]}
            assert int(said[winners[0]][1]) == number + 1, "it rises by one"
            winner = next(one for one in all_ if one.instance_id == winners[0])
            winner.say("release")
            assert winner.hear() == ["released"]
    assert (state_dir / "claims" / f"branch-{b'main'.hex()}.lock").stat().st_size == 100


def test_switching_is_one_step(state_dir: Path, fleet: Fleet, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        one.branches.join("main")
        two.branches.join("feature")
        with pytest.raises(errors.Conflict):
            two.branches.switch("main")
        assert holders(fleet) == [("feature", two.instance_id), ("main", one.instance_id)], "what is refused changes nothing"
        two.branches.switch("other")
        assert holders(fleet) == [("main", one.instance_id), ("other", two.instance_id)]
        one.branches.join("feature")
        assert holders(fleet) == [("feature", one.instance_id), ("main", one.instance_id), ("other", two.instance_id)]
        assert [given.branch for given in one.branches.release("main")] == ["main"]
        assert [given.branch for given in one.branches.release()] == ["feature"]
        with pytest.raises(errors.NotFound):
            one.branches.release()


def test_rejoining_changes_the_assignment(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        first = one.branches.join("main")
        second = one.branches.join("main", "write", files=["src/"], mode="coordinated")
        assert (first.epoch, second.epoch) == (1, 2)
        assert (str(second.intent), second.files) == ("write", ("src/**",))
        two.branches.join("main", "write", files=["docs/x.md"], mode="coordinated")
        with pytest.raises(errors.Conflict):
            one.branches.join("main")
        assert one.branches.held() == [second]
        with pytest.raises(errors.Conflict, match="on 16 branches"):
            for number in range(20):
                one.branches.join(f"b{number}", "read")


# Held by life


def test_the_dead_hold_nothing_and_the_stopped_all(state_dir: Path, root: Path) -> None:
    """B2, H1: a stopped holder keeps the branch however long; a killed one has lost it at that instant."""
    with Coordinator(state_dir, settings=FAST) as me, Contender(state_dir) as other:
        other.say("main")
        assert other.hear() == ["won", "1"]
        other.process.send_signal(signal.SIGSTOP)
        time.sleep(1)  # five heartbeats: it is called stalled by now
        with pytest.raises(errors.Conflict) as refused:
            me.branches.join("main")
        assert refused.value.holder == other.instance_id
        other.process.kill()
        other.process.wait()
        begun = time.monotonic()
        assert me.branches.join("main").epoch == 2, "at that instant: nobody had to notice"
        assert time.monotonic() - begun < 5
        support.wait_until(lambda: not (state_dir / "branches" / f"{other.instance_id}.json").exists(), what="it was reaped")


def test_who_leaves_leaves_nothing(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me:
        me.branches.join("main")
        assert [path.name for path in (state_dir / "branches").iterdir()] == [f"{me.instance_id}.json"]
    assert list((state_dir / "branches").iterdir()) == []
    assert json.loads((state_dir / "branch_registry.json").read_text())["branches"] == {}
    assert doctor.examine(state_dir).findings == ()


def test_nobody_joins_for_the_dead(state_dir: Path, fleet: Fleet, root: Path) -> None:
    with pytest.raises(errors.NotFound):
        fleet.branches.join(draft("0123abcd", "main"))
    assert holders(fleet) == []


@pytest.mark.parametrize("point", [CrashPoint.CLAIM_EPOCH_RAISED, CrashPoint.CLAIM_RECORDED, CrashPoint.BRANCH_JOINED])
def test_a_command_that_dies_half_way(point: CrashPoint, state_dir: Path, fleet: Fleet, root: Path) -> None:
    """The instance that it spoke for lives: what was joined counts, what was not is free, and the doctor finds nothing left."""
    with Coordinator(state_dir, settings=FAST) as me:
        done = branch(state_dir, "join", "main", "--for", me.instance_id, env={CRASH_VARIABLE: str(point)})
        assert done.returncode == -signal.SIGKILL
        assert bool(holders(fleet)) is (point is CrashPoint.BRANCH_JOINED)
        assert all(finding.fixed for finding in doctor.examine(state_dir, fix=True).findings)
        assert doctor.examine(state_dir).findings == ()
        assert me.branches.join("main").epoch == 2


# What is lost, damaged or forged


@pytest.mark.parametrize("harm", ["missing", "empty", "torn", "another", "a folder", "a link"])
def test_a_lost_registry_is_rebuilt_and_nothing_is_invented(harm: str, state_dir: Path, root: Path) -> None:
    """B1."""
    path = state_dir / "branch_registry.json"
    with Coordinator(state_dir, settings=FAST) as me, Coordinator(state_dir, settings=FAST) as other:
        me.branches.join("main", "write", files=["src/**"], mode="coordinated")
        before = json.loads(path.read_text())
        path.unlink()
        {
            "missing": lambda: None,
            "empty": lambda: path.write_text(""),
            "torn": lambda: path.write_text('{"version":1,"branches":{"main"'),
            "another": lambda: path.write_text('{"version":1,"branches":{"x":{"assignments":[{}]}}}'),
            "a folder": path.mkdir,
            "a link": lambda: path.symlink_to("/etc/passwd"),
        }[harm]()
        found = branch(state_dir, "status").json
        assert [(state["branch"], state["assignments"][0]["instance_id"]) for state in found] == [("main", me.instance_id)]
        with pytest.raises(errors.Conflict):
            other.branches.join("main")
        assert doctor.examine(state_dir).status is doctor.Status.PROBLEMS
        assert doctor.examine(state_dir, fix=True).status is doctor.Status.FIXED
        assert json.loads(path.read_text()) == before
        assert doctor.examine(state_dir, fix=True).findings == ()


def test_a_hand_edited_record_is_ignored(state_dir: Path, fleet: Fleet, root: Path) -> None:
    """B9: neither the copy for people nor a record that is no longer ours says who has what."""
    with Coordinator(state_dir, settings=FAST) as me, Coordinator(state_dir, settings=FAST) as other:
        me.branches.join("main", "write", files=["src/**"], mode="coordinated")
        view = state_dir / "branch_registry.json"
        view.write_text(view.read_text().replace(me.instance_id, other.instance_id))
        assert holders(fleet) == [("main", me.instance_id)]
        record = state_dir / "branches" / f"{me.instance_id}.json"
        record.write_text(record.read_text().replace("src/**", "etc/**"))
        assert holders(fleet) == []
        codes = {finding.code for finding in doctor.examine(state_dir, fix=True).findings}
        assert codes == {"branch-untrusted", "branch-registry-outdated"}
        assert not record.exists()
        assert doctor.examine(state_dir).findings == ()
        me.branches.join("main")


def test_another_may_not_use_ones_record(state_dir: Path, fleet: Fleet, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me, Coordinator(state_dir, settings=FAST) as other:
        me.branches.join("main")
        folder = state_dir / "branches"
        (folder / f"{other.instance_id}.json").write_bytes((folder / f"{me.instance_id}.json").read_bytes())
        (folder / f"{other.instance_id}.json").chmod(0o600)
        assert holders(fleet) == [("main", me.instance_id)]


def test_a_branch_that_was_deleted_is_flagged(state_dir: Path, root: Path) -> None:
    """B6."""
    with Coordinator(state_dir, settings=FAST) as me:
        me.branches.join("feature")
        me.branches.join("not-yet")
        assert doctor.examine(state_dir).findings == ()
        git(root, "branch", "-m", "feature", "renamed")
        (finding,) = doctor.examine(state_dir, fix=True).findings
        assert (finding.code, finding.subject, finding.fixed) == ("branch-gone", "feature", False)
        state = next(state for state in me.branches.status() if state.branch == "feature")
        assert (state.exists, state.assignments[0].instance_id) == (False, me.instance_id)


def test_two_names_of_one_file(state_dir: Path, root: Path) -> None:
    """B7: on a file system that does not tell the letters' case, `Feature` is `feature`."""
    with Coordinator(state_dir, settings=FAST) as me, Coordinator(state_dir, settings=FAST) as other:
        me.branches.join("Feature")
        me.branches.release()
        git(root, "config", "core.ignorecase", "true")
        with pytest.raises(errors.Config, match="same file"):
            me.branches.join("Feature")
        me.branches.join("new")
        with pytest.raises(errors.Config, match="same file"):
            other.branches.join("NEW", "read")


def test_a_reminder_takes_nothing_away(state_dir: Path, root: Path) -> None:
    quick = Settings(heartbeat_interval=0.2, poll_interval=0.1, branch_reminder=1.0)
    with Coordinator(state_dir, settings=quick) as me, Coordinator(state_dir, settings=quick) as other:
        me.branches.join("main")

        def noticed() -> bool:
            return [finding.code for finding in doctor.examine(state_dir, fix=True).findings] == ["branch-overdue"]

        support.wait_until(noticed, what="a notice")
        with pytest.raises(errors.Conflict):
            other.branches.join("main")


# What is said


class Inbox:
    """The messages that an instance was handed, and perhaps its answers."""

    def __init__(self, me: Coordinator, approve: bool | None = None) -> None:
        self.messages: list[Message] = []
        self._me = me
        self._approve = approve
        me.on_message(self._take)

    def _take(self, message: Message) -> None:
        self.messages.append(message)
        if self._approve is not None and message.message_type.endswith("Request"):
            self._me.branches.answer(message, approve=self._approve, reason="the tests run")

    @property
    def types(self) -> list[str]:
        return [message.message_type for message in self.messages]


def test_whom_it_is_close_to_is_told(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        inbox = Inbox(one)
        one.branches.join("main", files=["src/a.py"], mode="coordinated")
        two.branches.join("main", files=["docs/**"], mode="coordinated")
        two.branches.join("main", files=["src/b.py"], mode="coordinated")
        support.wait_until(lambda: inbox.messages)
        assert inbox.types == ["ConflictNotification"], "and not for what is far away"
        assert inbox.messages[0].payload == {
            "branch": "main",
            "severity": "warning",
            "reason": f"{two.instance_id} joined: {one.instance_id} works in the same folder",
            "files": ["src/b.py", "src/a.py"],
        }
        (found,) = one.branches.conflicts()
        assert (str(found.severity), found.instance_id, found.other) == ("warning", two.instance_id, one.instance_id)


def test_who_consents_lets_in(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        inbox = Inbox(one, approve=True)
        one.branches.join("main")
        begun = time.monotonic()
        taken = two.branches.join("main", files=["src/**"], mode="coordinated", timeout=60)
        assert time.monotonic() - begun < 10
        assert inbox.messages[0].message_type == "JoinRequest"
        assert inbox.messages[0].payload == {"branch": "main", "intent": "write", "mode": "coordinated", "files": ["src/**"]}
        assert (taken.bypassed, one.branches.held()[0].admits) == (False, (two.instance_id,))
        assert [str(found.severity) for found in one.branches.conflicts()] == ["error"], "it is shown, not hidden"


def test_who_wants_to_be_alone_asks_others_to_leave(state_dir: Path, fleet: Fleet, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        inbox = Inbox(one, approve=True)
        one.branches.join("main", files=["src/**"], mode="coordinated")
        two.branches.join("main", timeout=10)
        support.wait_until(lambda: inbox.types == ["IsolationRequest"])
        assert holders(fleet) == [("main", two.instance_id)]


def test_a_no_ends_the_waiting(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        Inbox(one, approve=False)
        one.branches.join("main")
        begun = time.monotonic()
        with pytest.raises(errors.Conflict, match="does not consent: the tests run") as refused:
            two.branches.join("main", timeout=60)
        assert time.monotonic() - begun < 10
        assert refused.value.suggestions
        assert two.branches.held() == []


def test_who_does_not_answer_may_still_leave(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        one.branches.join("main")
        threading.Timer(0.5, one.branches.release).start()
        begun = time.monotonic()
        two.branches.join("main", timeout=60)
        assert 0.4 < time.monotonic() - begun < 10
        begun = time.monotonic()
        with pytest.raises(errors.Conflict, match="not free"):
            one.branches.join("main", timeout=0.5)
        assert 0.4 < time.monotonic() - begun < 10


def test_on_critical_files_consent_does_not_help(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        Inbox(one, approve=True)
        one.branches.join("main", files=["migrations/1.sql"], mode="coordinated")
        with pytest.raises(errors.Conflict) as refused:
            two.branches.join("main", files=["migrations/2.sql"], mode="coordinated", timeout=1)
        assert refused.value.severity == "block"


def test_an_orchestrator_goes_past_everybody(state_dir: Path, fleet: Fleet, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, roles=["orchestrator"], settings=FAST) as two:
        inbox = Inbox(one)
        one.branches.join("main", files=["migrations/**"], mode="coordinated")
        taken = two.branches.join("main")
        assert taken.bypassed
        assert len(holders(fleet)) == 2
        support.wait_until(lambda: inbox.types == ["ConflictNotification"])
        assert inbox.messages[0].payload["severity"] == "block"
        assert not two.branches.join("feature").bypassed, "nothing was in the way there"


def test_requests_with_many_files_fit_into_a_message(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as one, Coordinator(state_dir, settings=FAST) as two:
        inbox = Inbox(one, approve=True)
        name = "b" * 200
        one.branches.join(name, files=[f"{'é' * 90}/{number}.py" for number in range(64)], mode="coordinated")
        two.branches.join(name, files=[f"{'é' * 90}/{number}.py" for number in range(64)], mode="coordinated", timeout=10)
        support.wait_until(lambda: "ConflictNotification" in inbox.types)


def test_answers_to_nonsense(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me, Coordinator(state_dir, settings=FAST) as other:
        for message_type, payload in (
            ("Note", {"branch": "main"}),
            ("JoinRequest", {}),
            ("JoinRequest", "main"),
            ("JoinRequest", {"branch": 1}),
        ):
            other.send(me.instance_id, message_type, payload)
            with next(iter(me.receive(5))) as message:
                with pytest.raises(errors.Config):
                    me.branches.answer(message, approve=True)
                assert me.branches.attend(message) is (message_type != "Note")
        other.send(me.instance_id, "JoinRequest", {"branch": "main", "intent": "full"})
        with next(iter(me.receive(5))) as message:
            assert me.branches.attend(message)
        with next(iter(other.receive(5))) as answer:
            assert answer.message_type == "JoinApproval", "who has nothing there is in nobody's way"


# What others see


def test_joining_and_releasing_are_events_everywhere(state_dir: Path, root: Path) -> None:
    seen: list[Event] = []
    with Coordinator(state_dir, settings=FAST) as watcher:
        watcher.on_event(seen.append)

        def told() -> list[tuple[str, str]]:
            return [(str(event.kind), event.data["branch"]) for event in seen if event.kind.startswith("branch")]

        with Coordinator(state_dir, settings=FAST) as one:
            own: list[Event] = []
            one.on_event(own.append)
            one.branches.join("main", files=["a"], mode="coordinated")
            support.wait_until(lambda: told() == [("branch_joined", "main")], what="the first")
            one.branches.switch("feature")
            joined = [("branch_joined", "main"), ("branch_released", "main"), ("branch_joined", "feature")]
            support.wait_until(lambda: told() == joined, what="the switch")
            time.sleep(0.3)  # three polls: nothing is said twice
            assert [(event.kind, event.data["branch"]) for event in own if event.kind.startswith("branch")] == joined
        support.wait_until(lambda: told()[-1:] == [("branch_released", "feature")], what="it left")
        with Contender(state_dir) as victim:
            victim.say("main")
            victim.hear()
            support.wait_until(lambda: told()[-1:] == [("branch_joined", "main")], what="the second one's")
            victim.process.kill()
            support.wait_until(lambda: told()[-1:] == [("branch_released", "main")], what="it died")
        kinds = [kind for kind, _ in told()]
        assert kinds.count("branch_joined") == kinds.count("branch_released") == len(kinds) / 2


def test_serve_answers_by_rule_and_says_who_works_where(state_dir: Path, root: Path) -> None:
    with (
        support.Serve(state_dir, "--name", "one", "--poll-interval", "0.2") as one,
        support.Serve(state_dir, "--name", "two") as two,
    ):
        assert branch(state_dir, "join", "main", "--for", "one").returncode == 0
        one.wait_for("works on the branch main")
        two.wait_for(f"{one.instance_id} works on the branch main")
        assert branch(state_dir, "join", "main", "--for", "two", "--wait", "2").returncode == 4
        two.wait_for("JoinDenial")
        one.kill()
        assert branch(state_dir, "join", "main", "--for", "two", "--wait", "10").returncode == 0
        listed = support.run("--dir", state_dir, "--json", "list").json
        assert [instance["branch"] for instance in listed if instance["name"] == "two"] == ["main"]
        assert two.stop() == 0


# The command


def test_whom_the_command_speaks_for(state_dir: Path, root: Path) -> None:
    assert branch(state_dir, "join", "main").returncode == 3, "there is no fleet"
    assert branch(state_dir, "status").json == []
    assert branch(state_dir, "conflicts").json == []
    with Coordinator(state_dir, name="one", settings=FAST) as one:
        assert branch(state_dir, "join", "main").json["instance_id"] == one.instance_id, "the only one"
        with Coordinator(state_dir, settings=FAST) as two:
            ambiguous = branch(state_dir, "join", "feature")
            assert (ambiguous.returncode, ambiguous.json["error"]["code"]) == (2, "config")
            worktree = Path(two.open_worktree().path)
            assert branch(state_dir, "join", "feature", cwd=worktree).json["instance_id"] == two.instance_id
            assert (
                branch(state_dir, "join", "feature", "read", env={"MNEMOSYNE_INSTANCE": "one"}).json["instance_id"]
                == one.instance_id
            )
            assert branch(state_dir, "join", "feature", "read", "--for", "nobody").returncode == 3
            assert branch(state_dir, "release", "feature", "--for", "one").json[0]["branch"] == "feature"
            assert branch(state_dir, "release", "feature", "--for", "one").returncode == 3
            seen = {state["branch"]: state["worktree"] for state in branch(state_dir, "status", "--all").json}
            assert seen == {"feature": None, "main": str(root), f"mnemosyne/{two.instance_id}": str(worktree)}
        assert support.run("--dir", state_dir, "branch", "status").stdout.splitlines()[1].startswith("main    ")


def test_a_refusal_in_json_and_for_people(state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, name="one", settings=FAST), Coordinator(state_dir, name="two", settings=FAST):
        branch(state_dir, "join", "main", "--for", "one")
        refused = branch(state_dir, "join", "main", "write", "--files", "src/**", "--for", "two")
        assert (refused.returncode, refused.json["error"]["code"]) == (4, "conflict")
        assert [suggestion["kind"] for suggestion in refused.json["suggestions"]] == [
            "coordinated",
            "read",
            "wait",
            "new-branch",
        ]
        said = support.run("--dir", state_dir, "branch", "join", "main", "--for", "two")
        assert (said.returncode, said.stdout) == (4, "")
        assert len(said.stderr.splitlines()) == 5


@pytest.mark.parametrize(
    "name", ["", " ", "-b", "a b", "a..b", "a~1", "HEAD", "@", "@{-1}", "a\nb", "a\x1bb", "x.lock", "/x", "x/", "a" * 300]
)
def test_what_is_no_branch(name: str, state_dir: Path, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me:
        with pytest.raises(errors.Config) as refused:
            me.branches.join(name)
        assert refused.value.key == "branch"
        assert not (state_dir / "branches").exists() or not list((state_dir / "branches").iterdir())


@pytest.mark.parametrize("name", ["a", "feature/é", "b" * 240, "🎉", "a{b}", "release-1.0"])
def test_what_is_a_branch(name: str, state_dir: Path, fleet: Fleet, root: Path) -> None:
    with Coordinator(state_dir, settings=FAST) as me, Coordinator(state_dir, settings=FAST) as other:
        assert me.branches.join(name).epoch == 1
        with pytest.raises(errors.Conflict):
            other.branches.join(name)
        assert holders(fleet) == [(name, me.instance_id)]


def test_without_a_repository(state_dir: Path) -> None:
    """It is an agreement among instances: only what git knows is missing."""
    with Coordinator(state_dir, settings=FAST) as me:
        taken = me.branches.join("main")
        (state,) = me.branches.status()
        assert (taken.commit, state.exists, state.worktree) == (None, None, None)
        assert doctor.examine(state_dir).findings == ()


def test_without_git_it_says_so(state_dir: Path, tmp_path: Path) -> None:
    with Coordinator(state_dir, name="one", settings=FAST):
        done = branch(state_dir, "join", "main", "--for", "one", env={"PATH": str(tmp_path)})
        assert (done.returncode, done.json["error"]["code"]) == (7, "command")
        assert branch(state_dir, "status", env={"PATH": str(tmp_path)}).json == []


def test_critical_paths_are_a_setting(state_dir: Path, root: Path) -> None:
    strict = Settings(heartbeat_interval=0.2, poll_interval=0.1, critical_paths="infra/**, **/*.pem")
    with Coordinator(state_dir, settings=strict) as one, Coordinator(state_dir, settings=strict) as two:
        one.branches.join("main", files=["infra/a.tf", "migrations/1.sql"], mode="coordinated")
        two.branches.join("main", files=["migrations/2.sql"], mode="coordinated")
        with pytest.raises(errors.Conflict) as refused:
            two.branches.join("main", files=["infra/b.tf"], mode="coordinated")
        assert refused.value.severity == "block"
    done = branch(state_dir, "status", env={"MNEMOSYNE_CRITICAL_PATHS": "/etc/passwd"})
    assert (done.returncode, done.json["error"]["code"]) == (2, "config")
    assert "critical_paths" in done.json["error"]["message"]


def test_a_full_disk_changes_nothing(state_dir: Path, fleet: Fleet, root: Path) -> None:
    """What cannot be written was not joined."""
    with Coordinator(state_dir, settings=FAST) as me:
        me.branches.join("feature")
        folder = state_dir / "branches"
        os.rename(folder, state_dir / "away")
        folder.write_text("in the way")
        with pytest.raises(errors.CoordinationError):
            Fleet.open(state_dir).branches.join(draft(me.instance_id, "main"))
        folder.unlink()
        os.rename(state_dir / "away", folder)
        assert holders(fleet) == [("feature", me.instance_id)]
