"""A unit of systemd: what is in a path or a value stays what it is."""

from __future__ import annotations

import pytest

from mnemo_coord import errors
from mnemo_coord.supervise.unit import Unit


def unit(**changes: object) -> Unit:
    usual = {"project": "shop", "instance": "dev", "argv": ("/bin/mnemosyne", "start"), "folder": "/home/me/shop"}
    return Unit(**{**usual, **changes})  # type: ignore[arg-type]


def line(found: Unit, key: str) -> str:
    return next(text.partition("=")[2] for text in found.text().splitlines() if text.startswith(f"{key}="))


def test_the_times_follow_from_the_services() -> None:
    found = unit(ready_within=120, grace=40)
    assert [line(found, key) for key in ("TimeoutStartSec", "TimeoutStopSec", "WatchdogSec")] == ["135", "60", "70"]
    assert found.file_name == "mnemosyne-shop-dev.service"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("/bin/m", "start", "--name", "dev"), "/bin/m start --name dev"),
        (("/my programs/m", "start"), '"/my programs/m" start'),
        (("/bin/m", "--dir", "/100%/$HOME"), '/bin/m --dir "/100%%/$$HOME"'),
        (("/bin/m", 'a"b\\c'), '/bin/m "a\\"b\\\\c"'),
        (("/bin/m", "a;b", ";"), '/bin/m "a;b" ";"'),
        (("/$bin/m", ""), '"/$bin/m" ""'),
    ],
)
def test_words(words: tuple[str, ...], text: str) -> None:
    assert line(unit(argv=words), "ExecStart") == text


def test_folders_and_variables() -> None:
    found = unit(folder="/home/my shop 50%", environ={"PATH": "/a b:/c", "X": "50%", "Y": "plain"})
    assert line(found, "WorkingDirectory") == "/home/my shop 50%%"
    assert [text for text in found.text().splitlines() if text.startswith("Environment=")] == [
        'Environment="PATH=/a b:/c"',
        'Environment="X=50%%"',
        "Environment=Y=plain",
    ]


@pytest.mark.parametrize("changes", [{"folder": "/a\nExecStart=/bin/evil"}, {"environ": {"X": "a\nb"}}, {"argv": ("/a\x1b",)}])
def test_what_no_unit_can_have(changes: dict[str, object]) -> None:
    with pytest.raises(errors.Config, match="cannot stand in a unit"):
        unit(**changes).text()
