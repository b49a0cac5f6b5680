# `just` alone lists the recipes.
export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

_list:
    @just --list --unsorted

# everything that CI runs
test:
    pytest -q -n 4

# unit tests only
fast:
    pytest -q tests/unit

# fault injection and crash points
faults:
    pytest -q -n 4 tests/faults tests/properties

# style and spelling, mending what can be mended
lint:
    ruff check --fix . && ruff format . && codespell && lint-imports

# types
types:
    mypy

# the site, into site/
docs:
    zensical build

# the generated parts of the reference
generate:
    python docs/generate.py

# what it costs, against what you would use instead
bench *ARGS:
    python -m benchmarks {{ARGS}}

# the picture of the dashboard in the README, of a fleet that really runs
screenshot:
    python docs/screenshot.py
