"""The same examples at every run, and as many as fit."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite", derandomize=True, deadline=None, max_examples=60, stateful_step_count=30, suppress_health_check=list(HealthCheck)
)
settings.load_profile("suite")
