"""``python tests/soak [--seconds N] [--seed N]``: the soak by hand, for as long as you like. Prints the table."""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soak.run import Plan, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/soak", description="Workers, a nemesis, and a checker of the history.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the nemesis is at work [60]")
    parser.add_argument("--seed", type=int, default=None, help="of the nemesis [by chance]")
    parser.add_argument("--writers", type=int, default=10)
    parser.add_argument("--readers", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as place:
        report = soak(Path(place), Plan(**vars(arguments)))
        print(report.table())
        for what, found in report.violations.items():
            for one in found[:20]:
                print(f"{what}: {one}", file=sys.stderr)
    return 1 if any(report.violations.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
