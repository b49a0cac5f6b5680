"""Nothing in the text of others reaches a terminal or a log as anything but what can be seen."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from mnemo_coord.display import printable

UNFIT = {
    "C0": range(0x20),
    "DEL": [0x7F],
    "C1": range(0x80, 0xA0),
    "line and paragraph separator": [0x2028, 0x2029],
    "embedding and override": range(0x202A, 0x202F),
    "isolates": range(0x2066, 0x206A),
    "marks of direction": [0x200E, 0x200F, 0x061C],
    "zero width": [0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x180E],
    "invisible operators": range(0x2061, 0x2065),
    "soft hyphen": [0xAD],
    "interlinear marks": range(0xFFF9, 0xFFFC),
    "surrogates": [0xD800, 0xDBFF, 0xDC00, 0xDCFF, 0xDFFF],
    "tags": [0xE0001, 0xE0041, 0xE007F],
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_steers_or_hides_is_escaped(kind: str) -> None:
    """S8, Q37."""
    for code in UNFIT[kind]:
        shown = printable(f"a{chr(code)}b")
        assert shown.isascii()
        assert shown.isprintable()
        assert f"a{chr(code)}b" == shown.encode().decode("unicode_escape"), "and can be told from the escape"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x1b]52;c;eA==\x07", r"\x1b]52;c;eA==\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("one\rtwo", r"one\x0dtwo"),
        ("INFO fine\n2026-01-01T00:00:00Z WARN forged", r"INFO fine\x0a2026-01-01T00:00:00Z WARN forged"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("a\u2028b", r"a\u2028b"),
        ("\ud83d", r"\ud83d"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_how_it_is_escaped(text: str, shown: str) -> None:
    """Q37."""
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["plain", "Grüße", "你好", "שלום", "مرحبا", "🙂", "e\u0301", "a b", r"C:\new", "[x]'\"<&>"])
def test_plain_text_stays(text: str) -> None:
    assert printable(text) == text


def test_nothing_of_the_control_and_format_kinds_passes() -> None:
    """Over all of Unicode: what it calls a control, a surrogate, a line or a paragraph separator."""
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in {"Cc", "Cs", "Zl", "Zp"}:
            assert chr(code) not in printable(chr(code)), hex(code)
        if unicodedata.bidirectional(chr(code)) in {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}:
            assert chr(code) not in printable(chr(code)), hex(code)


def test_what_is_shown_is_shown_the_same_again() -> None:
    everything = "".join(map(chr, range(0x3000))) + "\ud800\U000e0041"
    assert printable(printable(everything)) == printable(everything)
    assert len(printable(everything).splitlines()) == 1
    printable(everything).encode()
