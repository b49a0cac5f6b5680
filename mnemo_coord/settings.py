"""Every setting, declared once: its name, unit, default, what larger costs, and which variable sets it.

A flag beats the environment, which beats the default. ``config show``, the docs and the variables are read off this table.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from mnemo_coord import errors

__all__ = ["SECRET_VARIABLE", "Settings", "SourcedSetting", "describe", "resolve"]

SECRET_VARIABLE: Final = "MNEMOSYNE_SHARED_SECRET"
"""The fleet's key in the environment, instead of the file ``secret``. At least 16 bytes. Never passed to children."""

API_PORTS: Final = 11
"""How many ports the API tries: the configured one and the ten above it (the seed's 3000-3010)."""


def _setting(default: Any, variable: str | None, unit: str, help_text: str, *, least: float = 0.0) -> Any:
    return field(default=default, metadata={"variable": variable, "unit": unit, "help": help_text, "least": least})


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What can be tuned. Times are seconds, sizes are bytes."""

    heartbeat_interval: float = _setting(
        2.0,
        "MNEMOSYNE_HEARTBEAT_INTERVAL",
        "seconds",
        "Time between two heartbeats. Longer costs less and shows a stalled instance later (after three intervals).",
        least=0.05,
    )
    poll_interval: float = _setting(
        2.0,
        "MNEMOSYNE_POLL_INTERVAL",
        "seconds",
        "The longest time until something is noticed when the kernel's notification is missing. Shorter costs CPU at idle.",
        least=0.01,
    )
    api_addr: str = _setting(
        "127.0.0.1:3000",
        "MNEMOSYNE_API_ADDR",
        "host:port",
        "First address that the API tries; the ten ports above it follow.",
    )
    api_capacity: int = _setting(
        1000,
        None,
        "events",
        "Events kept for readers that come back. Each costs about 1 KB while it is kept.",
        least=1,
    )
    lock_timeout: float = _setting(
        10.0,
        "MNEMOSYNE_LOCK_TIMEOUT",
        "seconds",
        "How long a short lock (registry, doctor) is waited for before giving up. Shorter fails sooner on a busy machine.",
        least=0.1,
    )
    max_deliveries: int = _setting(
        5,
        "MNEMOSYNE_MAX_DELIVERIES",
        "deliveries",
        "How often a message is handed out before it goes to the dead letters. Larger retries longer.",
        least=1,
    )
    mailbox_limit: int = _setting(
        10_000,
        "MNEMOSYNE_MAILBOX_LIMIT",
        "messages",
        "How many messages may wait in one mailbox. A larger one holds more of a burst and is slower to list.",
        least=1,
    )
    durable: bool = _setting(
        False,
        "MNEMOSYNE_DURABLE",
        "yes or no",
        "Whether a message or memory survives a power cut (fsync), at about a hundred times the cost.",
    )

    critical_paths: str = _setting(
        "migrations/**,schema/**,**/.env,**/credentials.json",
        "MNEMOSYNE_CRITICAL_PATHS",
        "globs with commas between them",
        "Files of a repository that two instances never change beside each other on one branch.",
    )
    branch_reminder: float = _setting(
        3600.0,
        "MNEMOSYNE_BRANCH_REMINDER",
        "seconds",
        "How long an instance works on a branch until people are reminded of it. It keeps the branch all the same.",
        least=1.0,
    )
    db_path: str = _setting(
        "",
        "MNEMOSYNE_DB_PATH",
        "path",
        "The file of the shared memories. Empty: that of DATABASE_URL, of the state directory, or of the user.",
    )
    db_timeout: float = _setting(
        30.0,
        "MNEMOSYNE_DB_TIMEOUT",
        "seconds",
        "How long a change waits for others that write to the shared memories. Shorter fails sooner on a busy machine.",
        least=0.1,
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            _validate(setting.name, getattr(self, setting.name), setting.default, setting.metadata["least"])

    @property
    def stalled_after(self) -> float:
        """Seconds without a heartbeat after which a live instance is called stalled."""
        return 3 * self.heartbeat_interval


def _validate(name: str, value: Any, default: Any, least: float) -> None:
    if isinstance(default, (str, bool)):
        if type(value) is not type(default):
            raise errors.Config(f"{name} must be {_kind(default)}, not {value!r}", key=name)
        return
    kinds = (int,) if isinstance(default, int) else (int, float)
    if type(value) not in kinds or not math.isfinite(value) or value < least:
        raise errors.Config(f"{name} must be {_kind(default)} of at least {least:g}, not {value!r}", key=name)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcedSetting:
    """One setting as it applies here."""

    name: str
    value: Any
    source: str
    """``flag``, the name of the variable, or ``default``."""
    unit: str
    help: str


def resolve(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings that apply: flags that are not None, then variables, then defaults.

    Raises:
        errors.Config: a value that does not parse, naming the flag or the variable.
    """
    given = _given(flags or {}, os.environ if environ is None else environ)
    return Settings(**{name: value for name, (value, _) in given.items()})


def describe(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> list[SourcedSetting]:
    """Every setting with its value and where the value came from."""
    surroundings = os.environ if environ is None else environ
    given = _given(flags or {}, surroundings)
    resolved = resolve(flags, surroundings)
    return [
        SourcedSetting(
            name=setting.name,
            value=getattr(resolved, setting.name),
            source=given[setting.name][1] if setting.name in given else "default",
            unit=setting.metadata["unit"],
            help=setting.metadata["help"],
        )
        for setting in fields(Settings)
    ]


def _given(flags: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    given: dict[str, tuple[Any, str]] = {}
    for setting in fields(Settings):
        variable = setting.metadata["variable"]
        if flags.get(setting.name) is not None:
            given[setting.name] = (flags[setting.name], "flag")
        elif variable and environ.get(variable):
            value = _parse(variable, environ[variable], setting.default)
            _validate(variable, value, setting.default, setting.metadata["least"])
            given[setting.name] = (value, variable)
    return given


def _parse(variable: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return _truth(text)
        return type(default)(text.strip())
    except ValueError:
        raise errors.Config(f"{variable} is {text!r}, which is not {_kind(default)}", key=variable) from None


def _truth(text: str) -> bool:
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError(text)


def _kind(default: Any) -> str:
    return {bool: "yes or no", int: "a whole number", float: "a number"}.get(type(default), "text")
