"""Runs the planner and the reviewer in a fleet of their own, and exits 0 if all went as it should.

python run.py [STATE_DIRECTORY]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from mnemo_coord import Fleet

HERE = Path(__file__).resolve().parent


def start(program: str, state_dir: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(HERE / program)], env={**os.environ, "MNEMOSYNE_DIR": state_dir})


def run(state_dir: str) -> int:
    programs = [start(program, state_dir) for program in ("reviewer.py", "planner.py")]
    try:
        reviewer, planner = (program.wait(60) for program in programs)
    finally:
        for program in programs:
            program.kill()
            program.wait()
    with Fleet.open(state_dir) as fleet:
        left = [instance.instance_id for instance in fleet.instances()]
    print(f"reviewer exited with {reviewer}, planner was ended by signal {-planner}, still registered: {left}")
    return 0 if (reviewer, planner, left) == (0, -signal.SIGKILL, []) else 1


def main() -> int:
    if len(sys.argv) > 1:
        return run(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        return run(f"{folder}/.mnemosyne")


if __name__ == "__main__":
    sys.exit(main())
