"""Whether two globs could mean the same file: tables, and what must be true of any two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_coord import errors
from mnemo_coord.holdings.globs import check_globs, is_critical, matches, near, overlap

OVERLAP = [
    ("src/app.py", "src/app.py"),
    ("src/app.py", "src/*.py"),
    ("src/**", "src/app.py"),
    ("src/**", "src"),
    ("src", "src/deep/er/app.py"),
    ("**", "a"),
    ("**", "**"),
    ("**/app.py", "src/**"),
    ("**/app.py", "app.py"),
    ("src/**/test_*.py", "src/test_a.py"),
    ("a*c", "ab*"),
    ("a?c", "abc"),
    ("[ab].py", "a.py"),
    ("{one,two}/x", "two/x"),
    ("*", "src"),
    ("a**z", "abz"),
    ("docs/*/index.md", "docs/how-to/*.md"),
]
APART = [
    ("src/app.py", "src/main.py"),
    ("src/**", "docs/**"),
    ("src/*.py", "src/*.md"),
    ("src/*.py", "src/deep/app.py"),
    ("src", "srcs/app.py"),
    ("src/app.py", "app.py"),
    ("**/a.py", "src/b.py"),
    ("a?c", "ac"),
    ("*.py", "src/app.py"),
    ("x*", "y*"),
    ("docs/*/index.md", "docs/index.md"),
    ("**/index.md", "docs/a.md"),
]


@pytest.mark.parametrize(("first", "second"), OVERLAP)
def test_these_overlap(first: str, second: str) -> None:
    assert overlap(first, second)
    assert overlap(second, first)


@pytest.mark.parametrize(("first", "second"), APART)
def test_these_are_apart(first: str, second: str) -> None:
    assert not overlap(first, second)
    assert not overlap(second, first)


NAMES = st.sampled_from(["a", "b", "ab", "src", "*", "?", "a*", "*b", "**", "[ab]", "{a,b}", "."])
PLAIN = st.sampled_from(["a", "b", "ab", "src", "[ab]"])
GLOBS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
PATHS = st.lists(PLAIN, min_size=1, max_size=5).map("/".join)


@given(GLOBS, GLOBS, PATHS)
def test_two_that_mean_one_file_overlap(first: str, second: str, path: str) -> None:
    assert overlap(first, second) == overlap(second, first)
    assert overlap(first, first)
    if matches(first, path) and matches(second, path):
        assert overlap(first, second)


def test_a_long_glob_takes_no_time() -> None:
    """Thirty wildcards against thirty others, which no table of tries could bear."""
    assert not overlap("*a" * 60, "*b" * 60 + "c")
    assert not overlap("/".join(["**", "a"] * 60) + ".py", "/".join(["**", "b"] * 60) + ".py")


@pytest.mark.parametrize(
    ("first", "second", "close"),
    [
        ("src/a.py", "src/b.py", True),
        ("src/a.py", "src/deep/b.py", True),
        ("src/*.py", "src/*.md", True),
        ("a.py", "b.py", True),
        ("a.py", "src/b.py", False),
        ("src/a.py", "docs/a.py", False),
        ("src/a.py", "srcs/a.py", False),
    ],
)
def test_the_same_folder(first: str, second: str, close: bool) -> None:
    assert near(first, second) is close
    assert near(second, first) is close


@pytest.mark.parametrize(
    ("glob", "critical"),
    [
        ("migrations/0001.sql", True),
        ("migrations/**", True),
        ("migrations", True),
        ("migrations/*.sql", True),
        ("config/.env", True),
        (".env", True),
        ("**/.env", True),
        ("**", False),
        ("*", False),
        ("src/**", False),
        ("src/app.py", False),
        ("old/migrations/x", False),
    ],
)
def test_critical_is_what_names_critical_files(glob: str, critical: bool) -> None:
    assert is_critical(glob, ["migrations/**", "**/.env"]) is critical


def test_names_with_wildcards_in_them_are_names() -> None:
    assert matches("src/**", "src/[odd]*.py")
    assert not matches("src/a.py", "src/*")
    assert not matches("a", "**")


@pytest.mark.parametrize(
    ("given_", "checked"),
    [("./src/app.py", "src/app.py"), ("src//app.py", "src/app.py"), ("src/", "src/**"), ("src/./x", "src/x"), ("**", "**")],
)
def test_the_plain_form(given_: str, checked: str) -> None:
    assert check_globs([given_, checked]) == (checked,)


@pytest.mark.parametrize(
    "odd", ["", "/", ".", "/etc/passwd", "../x", "src/../../x", "a\nb", "a\0b", "x" * 257, "é" * 129, 7, None]
)
def test_what_is_no_glob(odd: object) -> None:
    with pytest.raises(errors.Config) as caught:
        check_globs([odd])  # type: ignore[list-item]
    assert caught.value.key == "files"


def test_a_text_is_no_list_and_too_many_are_too_many() -> None:
    with pytest.raises(errors.Config, match="list of globs"):
        check_globs("src/**")
    with pytest.raises(errors.Config, match="65 globs"):
        check_globs([f"f{number}" for number in range(65)])
