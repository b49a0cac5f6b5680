"""A flag beats the variable, which beats the default, and a bad value is refused by the name under which it was given."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from mnemo_coord import errors, settings
from mnemo_coord.settings import Settings

VARIABLES = {setting.name: setting.metadata["variable"] for setting in fields(Settings) if setting.metadata["variable"]}

GIVEN = {
    "heartbeat_interval": ("1.5", 1.5, 0.5),
    "poll_interval": (" 3 ", 3.0, 4.0),
    "api_addr": ("127.0.0.1:4000", "127.0.0.1:4000", "127.0.0.1:5000"),
    "lock_timeout": ("1e1", 10.0, 2.0),
    "max_deliveries": ("7", 7, 8),
    "mailbox_limit": ("12", 12, 13),
    "durable": ("yes", True, False),
    "critical_paths": ("infra/**", "infra/**", "ops/**, **/*.pem"),
    "branch_reminder": ("60", 60.0, 90.0),
    "db_path": ("dev.db", "dev.db", "prod.db"),
    "db_timeout": ("5", 5.0, 6.0),
}
"""Name: the variable's text, what it means, what the flag says."""


def test_the_table_knows_every_variable() -> None:
    assert GIVEN.keys() == VARIABLES.keys()
    assert all(variable == f"MNEMOSYNE_{name.upper()}" for name, variable in VARIABLES.items())


@pytest.mark.parametrize("name", VARIABLES)
def test_a_flag_beats_the_variable_which_beats_the_default(name: str) -> None:
    """F1, F11."""
    text, meant, flag = GIVEN[name]
    environ = {VARIABLES[name]: text}
    default = getattr(Settings(), name)
    for flags, surroundings, value, source in [
        ({}, {}, default, "default"),
        ({name: None}, {}, default, "default"),
        ({}, {VARIABLES[name]: ""}, default, "default"),
        ({}, environ, meant, VARIABLES[name]),
        ({name: None}, environ, meant, VARIABLES[name]),
        ({name: flag}, environ, flag, "flag"),
        ({name: flag}, {}, flag, "flag"),
    ]:
        assert getattr(settings.resolve(flags, surroundings), name) == value
        (shown,) = [one for one in settings.describe(flags, surroundings) if one.name == name]
        assert (shown.value, shown.source) == (value, source)
        assert type(shown.value) is type(default)


def test_the_surroundings_are_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEMOSYNE_POLL_INTERVAL", "9")
    assert settings.resolve().poll_interval == 9


@pytest.mark.parametrize(
    ("text", "value"),
    [(word, True) for word in ("1", "true", "YES", " on ")] + [(word, False) for word in ("0", "false", "No", "off\n")],
)
def test_yes_and_no(text: str, value: bool) -> None:
    assert settings.resolve({}, {"MNEMOSYNE_DURABLE": text}).durable is value


NOT_PARSED = [
    ("MNEMOSYNE_HEARTBEAT_INTERVAL", "soon"),
    ("MNEMOSYNE_HEARTBEAT_INTERVAL", "2s"),
    ("MNEMOSYNE_POLL_INTERVAL", "1,5"),
    ("MNEMOSYNE_LOCK_TIMEOUT", "0x10"),
    ("MNEMOSYNE_MAX_DELIVERIES", "1.5"),
    ("MNEMOSYNE_MAX_DELIVERIES", "9" * 5_000),
    ("MNEMOSYNE_MAILBOX_LIMIT", "many"),
    ("MNEMOSYNE_DURABLE", "maybe"),
    ("MNEMOSYNE_DURABLE", "2"),
]
OUT_OF_RANGE = [
    ("MNEMOSYNE_HEARTBEAT_INTERVAL", "0"),
    ("MNEMOSYNE_HEARTBEAT_INTERVAL", "0.049"),
    ("MNEMOSYNE_HEARTBEAT_INTERVAL", "nan"),
    ("MNEMOSYNE_POLL_INTERVAL", "-1"),
    ("MNEMOSYNE_POLL_INTERVAL", "inf"),
    ("MNEMOSYNE_LOCK_TIMEOUT", "1e400"),
    ("MNEMOSYNE_MAX_DELIVERIES", "0"),
    ("MNEMOSYNE_MAILBOX_LIMIT", "-5"),
]


@pytest.mark.parametrize(("variable", "text"), [*NOT_PARSED, *OUT_OF_RANGE], ids=lambda text: text[:30])
def test_a_bad_value_is_refused_and_the_variable_named(variable: str, text: str) -> None:
    """I27. Who set a variable has to be told which one."""
    for use in (settings.resolve, settings.describe):
        with pytest.raises(errors.Config) as caught:
            use({}, {variable: text})
        assert variable in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(("variable", "text"), [*NOT_PARSED, *OUT_OF_RANGE], ids=lambda text: text[:30])
def test_a_bad_variable_does_not_matter_when_a_flag_beats_it(variable: str, text: str) -> None:
    name = next(name for name, one in VARIABLES.items() if one == variable)
    assert getattr(settings.resolve({name: GIVEN[name][2]}, {variable: text}), name) == GIVEN[name][2]


@pytest.mark.parametrize(
    "changes",
    [
        {"heartbeat_interval": 0},
        {"heartbeat_interval": math.nan},
        {"poll_interval": math.inf},
        {"poll_interval": -1.0},
        {"lock_timeout": 0.0},
        {"api_capacity": 0},
        {"max_deliveries": 0},
        {"mailbox_limit": -1},
        {"poll_interval": None},
        {"poll_interval": [1]},
        {"poll_interval": "2"},
        {"max_deliveries": True},
    ],
    ids=str,
)
def test_a_bad_value_is_refused_and_the_setting_named(changes: dict[str, Any]) -> None:
    with pytest.raises(errors.Config, match=next(iter(changes))) as caught:
        Settings(**changes)
    assert caught.value.key == next(iter(changes))


@pytest.mark.parametrize(
    "changes", [{"heartbeat_interval": 0.05}, {"poll_interval": 0.01}, {"lock_timeout": 0.1}, {"api_capacity": 1}], ids=str
)
def test_the_least_value_will_do(changes: dict[str, Any]) -> None:
    (name, value) = next(iter(changes.items()))
    assert getattr(Settings(**changes), name) == value


def test_three_intervals_make_stalled() -> None:
    assert Settings(heartbeat_interval=2.0).stalled_after == 6.0


def test_settings_do_not_change() -> None:
    """F12."""
    with pytest.raises(FrozenInstanceError):
        Settings().poll_interval = 1.0  # type: ignore[misc]


def test_every_setting_is_explained_and_none_is_the_secret() -> None:
    """I25."""
    shown = settings.describe({}, {settings.SECRET_VARIABLE: "x" * 32})
    assert [one.name for one in shown] == [one.name for one in fields(Settings)]
    assert all(one.unit and one.help.endswith(".") for one in shown)
    assert "x" * 32 not in repr(shown)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], ""), (["serve"], "serve"), (["--dir", "serve", "list"], "list"), (["--dir=x", "--json", "serve", "--name", "x"], "serve"),
        (["send", "--to", "serve"], "send"), (["--dir"], ""), (["--help"], ""),
    ],
    ids=str,
)  # fmt: skip
def test_the_command_is_known_before_anything_is_parsed(arguments: list[str], command: str) -> None:
    from mnemo_coord.cli.main import _command

    assert _command(arguments) == command
