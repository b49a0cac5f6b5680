"""The code keeps to its style: the same tools, with the same settings, as the recipes and the commit hooks run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import support

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["codespell"],
        ["lint-imports"],
    ],
    ids=" ".join,
)
def test_tool_finds_nothing(command: list[str]) -> None:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=support.REPOSITORY, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_runs_the_command_of_the_readme() -> None:
    readme = (support.REPOSITORY / "README.md").read_text()
    commands = re.findall(r"^```sh\n(.+)\n```$", readme, re.MULTILINE)
    assert len(commands) == 2, "one line for the main job, one for the tests"
    assert commands[0].endswith("mnemosyne serve --with-api")
    assert "pytest" in commands[1]
    # .ci/run takes the command out of the README, so that the two cannot drift apart.
    ci = (support.REPOSITORY / ".ci" / "run").read_text()
    assert "## Develop" in ci
    assert "README.md" in ci


def test_nothing_names_this_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=support.REPOSITORY, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    forbidden = re.compile(r"/(?:wor[k]|far[m])/|\.pyen[v]/")
    for name in tracked.stdout.split():
        path = support.REPOSITORY / name
        if path.is_file() and path.suffix not in {".png", ".ico"}:
            assert not forbidden.search(path.read_text(errors="replace")), name
