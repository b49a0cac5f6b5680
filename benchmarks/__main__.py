"""The command: ``python -m benchmarks [--quick] [--only NAME …] [--list]``."""

from __future__ import annotations

import argparse

from benchmarks import api, members, memory, messages, scale, startup
from benchmarks.measure import header

FIGURES = {
    "messages": messages.run,
    "broadcast": messages.broadcast,
    "members": members.heartbeat,
    "registration": members.registration,
    "death": members.death,
    "startup": startup.run,
    "scale": scale.run,
    "serve": startup.serve,
    "api": api.run,
    "memory": memory.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Medians and ratios of one run; gates nothing.")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run at all?")
    parser.add_argument("--only", nargs="+", choices=FIGURES, metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--list", action="store_true", help="name the figures and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(FIGURES))
        return
    print(header())
    for name in options.only or FIGURES:
        FIGURES[name](quick=options.quick)


if __name__ == "__main__":
    main()
