"""Every error has a code of its own and the documented exit code, carries its data, and survives the way to another process."""

from __future__ import annotations

import copy
import pickle

import pytest

from mnemo_coord import errors
from mnemo_coord.errors import CoordinationError

EVERY: dict[str, tuple[str, int, type[BaseException]]] = {
    "CoordinationError": ("error", 1, Exception),
    "NotFound": ("not-found", 3, LookupError),
    "UnknownAddress": ("unknown-address", 3, errors.NotFound),
    "Conflict": ("conflict", 4, CoordinationError),
    "MailboxFull": ("mailbox-full", 4, errors.Conflict),
    "LeaseLost": ("lease-lost", 4, errors.Conflict),
    "TimedOut": ("timed-out", 5, TimeoutError),
    "State": ("state", 6, CoordinationError),
    "Untrusted": ("untrusted", 6, errors.State),
    "Damaged": ("damaged", 6, errors.State),
    "Unknown": ("unknown", 6, errors.State),
    "Config": ("config", 2, ValueError),
    "MessageTooLarge": ("message-too-large", 2, errors.Config),
    "NotEncodable": ("not-encodable", 2, errors.Config),
    "Command": ("command", 7, CoordinationError),
}


def test_the_table_is_the_tree() -> None:
    def below(kind: type[CoordinationError]) -> set[str]:
        return {kind.__name__}.union(*map(below, kind.__subclasses__()))

    assert EVERY.keys() == set(errors.__all__) - {"translated"} == below(CoordinationError)


@pytest.mark.parametrize("name", EVERY)
def test_an_error_has_its_code_and_its_exit_code(name: str) -> None:
    """I27."""
    code, exit_code, parent = EVERY[name]
    kind = getattr(errors, name)
    assert (kind.code, kind.exit_code) == (code, exit_code)
    assert issubclass(kind, parent)
    assert issubclass(kind, CoordinationError)
    assert kind.__doc__


def test_no_two_share_a_code() -> None:
    codes = [getattr(errors, name).code for name in EVERY]
    assert len(set(codes)) == len(codes)


AGAIN = {
    "pickled": lambda error: pickle.loads(pickle.dumps(error)),
    "pickled the old way": lambda error: pickle.loads(pickle.dumps(error, protocol=0)),
    "copied": copy.copy,
    "copied deeply": copy.deepcopy,
}


@pytest.mark.parametrize("way", AGAIN)
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("hint", [None, "", "do this"])
def test_an_error_survives(name: str, way: str, hint: str | None) -> None:
    error = getattr(errors, name)("one line", hint=hint, path="/p", size=3, holder=None)
    again = AGAIN[way](error)
    assert type(again) is type(error)
    assert (str(again), again.message, again.args) == ("one line", "one line", ("one line",))
    assert again.hint == error.hint == (type(error).default_hint if hint is None else hint)
    assert again.data == {"path": "/p", "size": 3, "holder": None}
    assert (again.path, again.size, again.holder) == ("/p", 3, None)


@pytest.mark.parametrize("name", EVERY)
def test_what_an_error_does_not_carry_is_no_attribute(name: str) -> None:
    error = getattr(errors, name)("x")
    assert not hasattr(error, "nothing")
    assert not hasattr(error, "__nothing__")
    with pytest.raises(AttributeError, match="nothing"):
        error.nothing  # noqa: B018


@pytest.mark.parametrize("name", ["State", "Untrusted", "Damaged"])
def test_an_error_about_a_path_names_it(name: str) -> None:
    error = getattr(errors, name).at("/some/path", "is odd")
    assert (str(error), error.path, error.reason) == ("/some/path: is odd", "/some/path", "is odd")
    assert pickle.loads(pickle.dumps(error)).reason == "is odd"


def test_pythons_own_words_catch_them() -> None:
    for ours, theirs in ((errors.NotFound, LookupError), (errors.TimedOut, TimeoutError), (errors.Config, ValueError)):
        with pytest.raises(theirs):
            raise ours("x")
