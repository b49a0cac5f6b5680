"""Who may work on a branch beside whom: the whole decision, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mnemo_coord import errors
from mnemo_coord.holdings.assignments import Assignment, Intent, Mode, draft
from mnemo_coord.holdings.occupancy import SuggestionKind, conflict, decide

CRITICAL = ("migrations/**", "**/.env")
ME, YOU, THIRD = "0000000a", "0000000b", "0000000c"

READ = ("read", (), "isolated")
FULL = ("full", (), "coordinated")
ALONE = ("full", (), "isolated")
SRC = ("write", ("src/**",), "coordinated")
SRC_ALONE = ("write", ("src/**",), "isolated")
APP = ("write", ("src/app.py",), "coordinated")
MAIN = ("write", ("src/main.py",), "coordinated")
DOCS = ("write", ("docs/**",), "coordinated")
FIRST = ("write", ("migrations/1.sql",), "coordinated")
SECOND = ("write", ("migrations/2.sql",), "coordinated")
ANY = ("write", (), "coordinated")

NOT_ONE = r"not an assignment|is not a valid"
Wish = tuple[str, tuple[str, ...], str]


def of(who: str, wish: Wish, branch: str = "main") -> Assignment:
    intent, files, mode = wish
    return draft(who, branch, intent, files, mode)


@pytest.mark.parametrize(
    ("wish", "held", "severity"),
    [
        (READ, ALONE, None),
        (ALONE, READ, None),
        (SRC, READ, None),
        (SRC, DOCS, None),
        (APP, MAIN, "warning"),
        (SRC, APP, "error"),
        (APP, APP, "error"),
        (FULL, FULL, "error"),
        (FULL, DOCS, "error"),
        (ANY, DOCS, "error"),
        (ALONE, ALONE, "error"),
        (ALONE, DOCS, "error"),
        (DOCS, ALONE, "error"),
        (SRC_ALONE, DOCS, "error"),
        (DOCS, SRC_ALONE, "error"),
        (FIRST, FIRST, "block"),
        (FIRST, SECOND, "block"),
        (FULL, FIRST, "block"),
        (FIRST, ALONE, "block"),
        (FIRST, DOCS, None),
    ],
)
def test_what_is_between_two(wish: Wish, held: Wish, severity: str | None) -> None:
    found = conflict(of(ME, wish), of(YOU, held), CRITICAL)
    assert (None if found is None else str(found.severity)) == severity
    decision = decide(of(ME, wish), [of(YOU, held)], CRITICAL)
    assert decision.admitted is (severity in {None, "warning"})
    assert bool(decision.conflicts) is (severity is not None)
    assert bool(decision.suggestions) is not decision.admitted


def test_it_is_the_same_in_both_directions() -> None:
    everything = [READ, FULL, ALONE, SRC, SRC_ALONE, APP, MAIN, DOCS, FIRST, SECOND, ANY]
    for one in everything:
        for other in everything:
            mine, yours = conflict(of(ME, one), of(YOU, other), CRITICAL), conflict(of(YOU, other), of(ME, one), CRITICAL)
            assert (mine and mine.severity) == (yours and yours.severity), (one, other)


def test_other_branches_and_ones_own_are_not_in_the_way() -> None:
    assert decide(of(ME, ALONE), [of(YOU, ALONE, "other"), of(ME, FULL)], CRITICAL).conflicts == ()


def test_the_worst_comes_first_and_who_is_only_close_is_not_in_the_way() -> None:
    third = draft(THIRD, "main", "write", ["migrations/1.sql"], "coordinated")
    wish = draft(ME, "main", "write", ["src/app.py", "migrations/2.sql"], "coordinated")
    decision = decide(wish, [of(YOU, MAIN), third], CRITICAL)
    assert [(found.other, str(found.severity)) for found in decision.conflicts] == [(THIRD, "block")]
    admitted = decide(of(ME, APP), [of(YOU, MAIN), of(THIRD, DOCS)], CRITICAL)
    assert [(found.other, str(found.severity)) for found in admitted.conflicts] == [(YOU, "warning")]


def test_consent_lifts_an_error_and_no_block() -> None:
    consenting = replace(of(YOU, ALONE), admits=(ME,))
    assert decide(of(ME, SRC), [consenting], CRITICAL).admitted
    assert not decide(of(THIRD, SRC), [consenting], CRITICAL).admitted
    assert not decide(of(ME, FIRST), [consenting], CRITICAL).admitted
    assert not decide(of(ME, SRC), [consenting, of(THIRD, ALONE)], CRITICAL).admitted, "each has to"


@pytest.mark.parametrize("wish", [ALONE, FULL, FIRST])
def test_a_bypass_goes_past_everything_and_says_what(wish: Wish) -> None:
    decision = decide(of(ME, wish), [of(YOU, FIRST), of(THIRD, ALONE)], CRITICAL, bypass=True)
    assert decision.admitted
    assert {found.other for found in decision.conflicts} == {YOU, THIRD}


def kinds(wish: Wish, held: Wish) -> list[SuggestionKind]:
    return [suggestion.kind for suggestion in decide(of(ME, wish), [of(YOU, held)], CRITICAL).suggestions]


def test_every_refusal_comes_with_suggestions() -> None:
    rest = [SuggestionKind.READ, SuggestionKind.WAIT, SuggestionKind.NEW_BRANCH]
    assert kinds(ALONE, ALONE) == [SuggestionKind.COORDINATED, *rest]
    assert kinds(SRC, APP) == rest
    texts = [suggestion.text for suggestion in decide(of(ME, SRC_ALONE), [of(YOU, DOCS)], CRITICAL).suggestions]
    assert "granted now" in texts[0]
    assert texts[2] == f"wait for {YOU}"
    assert f"main-{ME}" in texts[3]
    assert "consent" in decide(of(ME, SRC_ALONE), [of(YOU, ALONE)], CRITICAL).suggestions[0].text


def test_what_may_be_wished_for() -> None:
    assert draft(ME, "main").intent is Intent.FULL
    assert draft(ME, "main").mode is Mode.ISOLATED
    assert draft(ME, "main", files=["src/"]).files == ("src/**",)
    assert draft(ME, "main", files=["src/"]).intent is Intent.WRITE
    assert draft(ME, "main", "write").writes == ("**",)
    assert draft(ME, "main", "read", ["src/**"]).writes == ()
    for options in ({"intent": "own"}, {"mode": "both"}, {"intent": "full", "files": ["x"]}, {"files": ["../x"]}):
        with pytest.raises(errors.Config):
            draft(ME, "main", **options)  # type: ignore[arg-type]


def test_a_record_comes_back_as_it_was_and_nothing_else_does() -> None:
    one = replace(of(ME, SRC), epoch=7, since="now", commit="abc", admits=(YOU,), due_ns=5, boot_id="b")
    body = one.to_body()
    assert Assignment.from_body({**body, "later": 1}) == one
    for name, value in {
        "branch": 1, "instance_id": "x", "intent": "own", "files": ["a", 1], "mode": None, "epoch": True, "since": None,
        "commit": 1, "admits": "x", "bypassed": 0, "due_ns": "1", "boot_id": 2,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=NOT_ONE):
            Assignment.from_body({**body, name: value})
        with pytest.raises(ValueError, match=NOT_ONE):
            Assignment.from_body({key: kept for key, kept in body.items() if key != name})
    for odd in (None, [], 3):
        with pytest.raises(ValueError, match=NOT_ONE):
            Assignment.from_body(odd)  # type: ignore[arg-type]
