"""What an instance's .env says: values and quotes, included files, and that nothing in it is ever run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemo_coord import errors
from mnemo_coord.instances import dotenv
from mnemo_coord.instances.environment import FORMATS


def written(folder: Path, text: str | bytes, name: str = ".env") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1\nB='two words'\nC=\"3\\n4\"", {"A": "1", "B": "two words", "C": "3\n4"}),
        ("export A=1\n  B = 2  # a comment\n#C=3\n\nD=", {"A": "1", "B": "2", "D": ""}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("\ufeffA=1", {"A": "1"}),
        ("A=sk-#1\nB=a#b", {"A": "sk-#1", "B": "a#b"}),
        ('A=x\nB=${A}-y\nC="${A} ${GIVEN}"', {"A": "x", "B": "x-y", "C": "x outside"}),
        ("B='${A} ${GIVEN}'", {"B": "${A} ${GIVEN}"}),
        ("A=${NOT}\nB=${NOT:-d e}\nC=${EMPTY:-d}\nD=${GIVEN:-d}", {"A": "", "B": "d e", "C": "d", "D": "outside"}),
        ("GIVEN=own\nA=${GIVEN}", {"GIVEN": "own", "A": "own"}),
        ("A=$GIVEN\nB=${}\nC=${1}", {"A": "$GIVEN", "B": "${}", "C": "${1}"}),
        ('A=$(touch ran)\nB=`touch ran`\nC="$(touch ran)"', {"A": "$(touch ran)", "B": "`touch ran`", "C": "$(touch ran)"}),
        ("A=1\nexport A\nB\n", {"A": "1"}),
        ('source=1\nA="a\nsource nowhere"', {"source": "1", "A": "a\nsource nowhere"}),
    ],
)
def test_values(text: str, found: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dotenv.read(written(tmp_path, text), {"GIVEN": "outside", "EMPTY": ""}) == found
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "line", ["source shared/base.env", ". shared/base.env", "source 'shared/base.env'", '. "shared/base.env"  # base',
             "  source ${WHERE}/base.env", "source ~/shared/base.env", '. "~/shared/base.env"'],
)  # fmt: skip
def test_a_file_is_included_where_it_is_named(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "shared").mkdir()
    written(tmp_path / "shared", "A=base\nB=base\n. inner.env\n", "base.env")
    written(tmp_path / "shared", "C=${B}\n", "inner.env")  # relative to the file that it stands in
    path = written(tmp_path, f"A=before\nB=before\n\n{line}\nB=after\nD=${{C}}\n")
    assert dotenv.read(path, {"WHERE": "shared"}) == {"A": "base", "B": "after", "C": "base", "D": "base"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A=1\n\nsource nowhere.env", ".env:3: {folder}/nowhere.env is not there"),
        ("A=1\nsource .env", ".env:2: {folder}/.env includes itself"),
        ("source a.env", "a.env:1: {folder}/.env includes itself"),
        ("source", ".env:1: needs one file"),
        (".  # nothing", ".env:1: needs one file"),
        ("source a.env b.env", ".env:1: needs one file"),
        ("source 'a.env", ".env:1: cannot be split into words"),
        ("source folder", ".env:1: {folder}/folder is not a regular file"),
        ("source fifo", ".env:1: {folder}/fifo is not a regular file"),
        ("A=1\n\nB C=2", ".env:3: is neither NAME=VALUE nor"),
        ("A='1\nB=2", ".env:1: is neither NAME=VALUE nor"),
        ("\n\n1A=2", ".env:3: '1A' is not the name of a variable"),
        ("A-B=2", ".env:1: 'A-B' is not the name of a variable"),
        (b"A=1\nB=\xff\n", ".env:2: is not text in UTF-8"),
        (b"A=1\n\0\n", ".env:2: has a byte that is no text"),
        (b"\x7fELF\x02\x01", ".env:1: has a byte that is no text"),
        ("A=" + "x" * 65536, ".env: is larger than 65536 bytes"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str | bytes, said: str, tmp_path: Path) -> None:
    written(tmp_path, "A=1", "b.env")
    written(tmp_path, "source .env", "a.env")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(errors.Config) as caught:
        dotenv.read(written(tmp_path, text), {})
    assert said.format(folder=tmp_path) in caught.value.message
    assert caught.value.hint


def test_how_deep_and_how_many(tmp_path: Path) -> None:
    for number in range(9):
        written(tmp_path, f"A{number}=1\nsource {number + 1}.env", f"{number}.env")
    written(tmp_path, "END=1", "9.env")
    assert "END" in dotenv.read(tmp_path / "2.env", {}), "eight files"
    with pytest.raises(errors.Config, match=r"8\.env:2: files are included more than 8 deep"):
        dotenv.read(tmp_path / "1.env", {})
    written(tmp_path, "source 9.env\n" * 70, "many.env")
    with pytest.raises(errors.Config, match=r"many\.env:64: .* more than 64"):
        dotenv.read(tmp_path / "many.env", {})


def test_missing_and_what_others_can_write(tmp_path: Path) -> None:
    with pytest.raises(errors.Config, match=r"\.env: is not there"):
        dotenv.read(tmp_path / ".env", {})
    path = written(tmp_path, "A=1")
    path.chmod(0o644)
    assert dotenv.read(path, {}) == {"A": "1"}, "what all may read can be shared"
    path.chmod(0o622)
    with pytest.raises(errors.Untrusted, match="other users can write it"):
        dotenv.read(path, {})


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="'"), max_size=30))
@settings(max_examples=50, deadline=None)
def test_what_we_write_for_dotenv_is_read_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = written(tmp_path_factory.mktemp("env"), FORMATS["dotenv"]({"V": text}, {}) + "\n")
    if "\\" not in text:
        assert dotenv.read(path, {}) == {"V": text}
