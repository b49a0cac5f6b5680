"""The example runs to its end: two programs find each other, one crashes, the other takes over. Started in either order."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import pytest
import support

EXAMPLE = support.REPOSITORY / "examples" / "mnemosyne"


def program(name: str, state_dir: Path, *args: object) -> support.Child:
    argv = [sys.executable, str(EXAMPLE / name), *map(str, args)]
    return support.Child(argv, state_dir.parent / "example", env={"MNEMOSYNE_DIR": str(state_dir)})


def test_it_runs(state_dir: Path) -> None:
    with program("run.py", state_dir, state_dir) as example:
        assert example.wait(60) == 0, example.log + example.printed
    history = [json.loads(line) for line in (state_dir / "history.jsonl").read_text().splitlines()]
    planner = next(fact["instance_id"] for fact in history if fact["name"] == "planner")
    assert [fact["kind"] for fact in history if fact["instance_id"] == planner] == ["instance_registered", "instance_died"]
    assert example.printed.splitlines()[-2].endswith("has the release at epoch 2")
    assert support.run("--dir", state_dir, "doctor").returncode == 0


@pytest.mark.parametrize("first", ["planner.py", "reviewer.py"])
def test_either_may_come_first(first: str, state_dir: Path) -> None:
    second = {"planner.py": "reviewer.py", "reviewer.py": "planner.py"}[first]
    with program(first, state_dir) as one:
        one.wait_for("asks for" if first == "planner.py" else "is here")
        with program(second, state_dir) as two:
            codes = {first: one.wait(), second: two.wait()}
    assert codes == {"planner.py": -signal.SIGKILL, "reviewer.py": 0}, one.printed + two.printed


def test_the_readme_shows_what_is_printed(state_dir: Path) -> None:
    with program("run.py", state_dir, state_dir) as example:
        example.wait(60)
    shown = re.search(r"```text\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)
    assert shown
    anonymous = re.compile(r"\b[0-9a-f]{8}\b")
    assert sorted(anonymous.sub("ID", shown[1]).splitlines()) == sorted(anonymous.sub("ID", example.printed).splitlines())


def test_two_orchestrators_meet_crash_and_lose_nothing(tmp_path: Path) -> None:
    argv = [sys.executable, str(EXAMPLE / "parallel.py"), str(tmp_path)]
    with support.Child(argv, tmp_path.parent / "parallel") as example:
        assert example.wait(100) == 0, example.log + example.printed
    said = [line.partition(": ")[2] for line in example.printed.splitlines()]
    for words in ("is refused the version in its notes (error)", "lets ", "crashes", "takes over from"):
        assert any(text.startswith(words) for text in said), (words, said)
    epochs = [int(found[1]) for found in re.finditer(r"at epoch (\d+)", example.printed)]
    assert sorted(epochs) == [1, 2, 3, 4, 5, 6], "each joining has its own"
    findings = support.run("--dir", tmp_path / ".mnemosyne", "doctor", "--json").json["findings"]
    assert "worktree-abandoned" in {finding["code"] for finding in findings}
