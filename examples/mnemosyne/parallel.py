"""Makes a repository, runs two orchestrators in worktrees of it, and exits 0 if nothing was lost.

python parallel.py [FOLDER]

They meet at one file; then one of them crashes, and the other does what was left to do.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from mnemo_coord import Fleet, doctor

HERE = Path(__file__).resolve().parent
NAMES = ("docs", "feature")


def git(folder: Path, *args: str) -> str:
    identity = ["-c", "user.name=example", "-c", "user.email=example@example.com"]
    return subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True, text=True).stdout


def make_repository(folder: Path) -> None:
    git(folder, "init", "-q", "-b", "main")
    (folder / "src").mkdir()
    (folder / "src" / "version.py").write_text("VERSION = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")


def start(name: str, folder: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, str(HERE / "orchestrator.py"), name, str(HERE / "plans" / f"{name}.json")]
    surroundings = {key: value for key, value in os.environ.items() if key != "MNEMOSYNE_DIR"}
    return subprocess.Popen(argv, cwd=folder, env=surroundings)


def kept(folder: Path) -> list[str]:
    """What the one that crashed had written and not committed: its worktree is not taken away."""
    with Fleet.open(folder / ".mnemosyne") as fleet:
        abandoned = [worktree for worktree in fleet.worktrees.all() if worktree.risks]
    return [path.read_text() for worktree in abandoned for path in Path(worktree.path).glob("src/farewell.py")]


def run(folder: Path) -> int:
    make_repository(folder)
    programs = [start(name, folder) for name in NAMES]
    try:
        docs, feature = (program.wait(90) for program in programs)
    finally:
        for program in programs:
            program.kill()
            program.wait()
    report = doctor.examine(folder / ".mnemosyne", fix=True)
    print(f"docs exited with {docs}, feature was ended by signal {-feature}")
    print("main has:", *git(folder, "ls-files").split())
    print("the doctor:", *(finding.code for finding in report.findings))
    print("kept of the crash:", kept(folder))
    git(folder, "fsck", "--no-dangling")
    whole = git(folder, "ls-files").split() == ["docs/guide.md", "src/farewell.py", "src/greeting.py", "src/version.py"]
    return 0 if (docs, feature) == (0, -signal.SIGKILL) and whole and len(kept(folder)) == 1 else 1


def main() -> int:
    if len(sys.argv) > 1:
        return run(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
