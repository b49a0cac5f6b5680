"""The benchmarks run: what is published as a command works."""

from __future__ import annotations

import subprocess
import sys

import pytest
import support


@pytest.mark.parametrize(
    "figure", ["messages", "broadcast", "members", "registration", "death", "startup", "serve", "api", "memory"]
)
def test_a_figure_prints_its_table(figure: str) -> None:
    argv = [sys.executable, "-m", "benchmarks", "--quick", "--only", figure]
    done = subprocess.run(argv, cwd=support.REPOSITORY, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert any(unit in done.stdout for unit in (" ms", " s", " MB", " us"))
    assert "Traceback" not in done.stderr
