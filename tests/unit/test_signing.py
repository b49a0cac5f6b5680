"""A fleet has one key, made once and readable by its user only; every purpose signs with a key of its own.

A key that changed is adopted, one that was lost is put back, and one that cannot be trusted is named and replaced."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import support
from unit.kernel import need_root

from mnemo_coord import errors
from mnemo_coord.disk import files, signing
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import StateDir

VARIABLE = "MNEMOSYNE_SHARED_SECRET"
RACERS = 8

LOAD = """
    import os, sys, time
    from mnemo_coord.disk import signing
    from mnemo_coord.disk.state_dir import StateDir
    print("ready", flush=True)
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.0005)
    print("key", signing.load(StateDir.open(sys.argv[1])).key_id, flush=True)
"""


def replace_key(state: StateDir, secret: bytes) -> None:
    files.replace("secret", secret.hex().encode() + b"\n", dir_fd=state.fd, writer="test")


def test_eight_threads_make_one_key(state_dir: Path) -> None:
    """S4."""
    found: list[str] = []
    start = threading.Barrier(RACERS)

    def load() -> None:
        start.wait()
        state = StateDir.open(state_dir)
        found.append(signing.load(state, {}).key_id)
        state.close()

    threads = [threading.Thread(target=load) for _ in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == RACERS
    assert len(set(found)) == 1
    assert_is_a_key(state_dir)


def test_eight_processes_make_one_key(state_dir: Path, tmp_path: Path) -> None:
    """S4."""
    go = tmp_path / "go"
    racers = [support.python(LOAD, tmp_path / "racers", state_dir, go) for _ in range(RACERS)]
    try:
        for racer in racers:
            racer.wait_for("ready")
        go.touch()
        found = {racer.wait_for("key ") for racer in racers}
        assert [racer.wait() for racer in racers] == [0] * RACERS
    finally:
        for racer in racers:
            racer.__exit__()
    assert len(found) == 1
    assert_is_a_key(state_dir)


def assert_is_a_key(place: Path) -> None:
    assert (place / "secret").stat().st_mode & 0o7777 == 0o600
    text = (place / "secret").read_text()
    assert text == text.strip() + "\n"
    assert len(bytes.fromhex(text)) == 32
    assert [path.name for path in place.iterdir() if path.name.startswith("secret")] == ["secret"], "no temporary file is left"


@pytest.mark.parametrize("umask", [0, 0o777])
def test_the_keys_mode_does_not_depend_on_the_umask(umask: int, state: StateDir) -> None:
    """S2."""
    before = os.umask(umask)
    try:
        signing.load(state, {})
    finally:
        os.umask(before)
    assert_is_a_key(state.path)


def test_two_fleets_have_two_keys(tmp_path: Path) -> None:
    one, two = (StateDir.open(tmp_path / "fleet" / name) for name in "ab")
    assert signing.load(one, {}).key_id != signing.load(two, {}).key_id
    one.close()
    two.close()


def test_a_reader_makes_no_key(state: StateDir) -> None:
    reader = StateDir.open(state.path, create=False)
    with pytest.raises(errors.NotFound):
        signing.load(reader, {})
    assert os.listdir(state.fd) == []
    reader.close()


# What is signed


@pytest.mark.parametrize("mine", Purpose)
@pytest.mark.parametrize("other", Purpose)
def test_a_signature_is_good_for_one_purpose(mine: Purpose, other: Purpose, signer: Signer) -> None:
    """S5."""
    assert signer.verify(other, b"data", signer.sign(mine, b"data")) is (mine is other)


@pytest.mark.parametrize("purpose", Purpose)
def test_a_signature_is_what_is_written_down(purpose: Purpose, signer: Signer) -> None:
    """Computed from the RFCs, as a program in another language would."""
    extracted = hmac.digest(b"mnemosyne/v1", b"k" * 32, "sha256")
    subkey = hmac.digest(extracted, purpose.value.encode() + b"\x01", "sha256")
    key_id = hashlib.sha256(b"k" * 32).hexdigest()[:8]
    signed = f"{purpose.value}:{key_id}:".encode() + b"the exact bytes"
    assert signer.sign(purpose, b"the exact bytes") == hmac.digest(subkey, signed, "sha256")


def test_no_subkey_is_another_or_the_secret(signer: Signer) -> None:
    subkeys = [signer._derive(purpose) for purpose in Purpose]
    assert len({*subkeys, signer.secret}) == len(Purpose) + 1
    assert {len(subkey) for subkey in subkeys} == {32}


@pytest.mark.parametrize("signature", [b"", b"\0" * 31, b"\0" * 32, b"\0" * 33], ids=len)
def test_nothing_else_is_a_signature(signature: bytes, signer: Signer) -> None:
    assert not signer.verify(Purpose.RECORD, b"data", signature)


def test_a_signer_does_not_show_its_secret(signer: Signer) -> None:
    """I25."""
    assert repr(signer) == f"<Signer {signer.key_id}>"


# The key in the environment


@pytest.mark.parametrize("secret", ["x", "hunter2", "x" * 15, "é" * 7 + "x"])
def test_a_short_secret_is_refused_by_name_and_not_shown(secret: str, state: StateDir) -> None:
    with pytest.raises(errors.Config, match=f"{VARIABLE} is shorter than 16 bytes") as caught:
        signing.load(state, {VARIABLE: secret})
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert len(secret) == 1 or secret not in f"{caught.value} {caught.value.hint} {caught.value.data}"


@pytest.mark.parametrize("secret", ["x" * 16, "é" * 8, "\udcff" * 16], ids=ascii)
def test_a_secret_of_16_bytes_needs_no_file(secret: str, state: StateDir) -> None:
    one, two = (signing.load(state, {VARIABLE: secret}) for _ in range(2))
    assert one.secret == os.fsencode(secret)
    assert two.verify(Purpose.RECORD, b"data", one.sign(Purpose.RECORD, b"data"))
    assert os.listdir(state.fd) == []
    assert not signing.refresh(one, state), "there is no file whose change could be noticed"
    assert os.listdir(state.fd) == []


def test_an_empty_variable_is_none(state: StateDir) -> None:
    assert signing.load(state, {VARIABLE: ""}).key_id == signing.load(state, {}).key_id


# Another key


def test_a_new_key_is_adopted_once(state: StateDir) -> None:
    """F9."""
    signer = signing.load(state, {})
    before = signer.key_id
    assert not signing.refresh(signer, state)
    replace_key(state, b"n" * 32)
    assert signing.refresh(signer, state)
    assert not signing.refresh(signer, state)
    assert signer.key_id != before
    assert Signer(b"n" * 32).verify(Purpose.MESSAGE, b"data", signer.sign(Purpose.MESSAGE, b"data"))


def test_a_lost_key_is_put_back(state: StateDir) -> None:
    """R1. The fleet lives on although its folder was emptied."""
    signer = signing.load(state, {})
    (state.path / "secret").unlink()
    assert not signing.refresh(signer, state)
    assert signing.load(state, {}).secret == signer.secret
    assert_is_a_key(state.path)


def test_the_first_of_two_who_put_a_key_back_wins(state: StateDir) -> None:
    signer = signing.load(state, {})
    (state.path / "secret").unlink()
    replace_key(state, b"n" * 32)
    assert signing.refresh(signer, state)
    assert signer.secret == b"n" * 32


def test_a_damaged_key_is_not_adopted(state: StateDir) -> None:
    signer = signing.load(state, {})
    before = signer.secret
    files.replace("secret", b"nonsense", dir_fd=state.fd, writer="test")
    with pytest.raises(errors.Damaged):
        signing.refresh(signer, state)
    assert signer.secret == before


def test_a_key_replaced_while_it_is_loaded_is_adopted_at_the_next_refresh(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F9. The instant between reading the key and noting which file it came from."""
    signing.load(state, {})
    real = signing._read

    def read_then_replaced(place: StateDir) -> bytes:
        secret = real(place)
        monkeypatch.setattr(signing, "_read", real)
        replace_key(place, b"n" * 32)
        return secret

    monkeypatch.setattr(signing, "_read", read_then_replaced)
    signer = signing.load(state, {})
    signing.refresh(signer, state)
    assert signer.secret == b"n" * 32, "it would sign with a key that nobody else has, for good"


# What the doctor says


def as_content(text: str) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        path.write_text(text)
        path.chmod(0o600)

    return plant


def as_mode(mode: int) -> Callable[[Path], None]:
    return lambda path: path.chmod(mode)


def as_link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def as_hard_link(path: Path) -> None:
    os.link(path, path.parent.parent / "elsewhere")


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def as_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as planted:
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            planted.bind(path.name)
        finally:
            os.chdir(here)


def as_foreign(path: Path) -> None:
    need_root()
    os.chown(path, 65534, 65534)


UNUSABLE: dict[str, tuple[Callable[[Path], None], type[errors.State]]] = {
    "empty": (as_content(""), errors.Damaged),
    "no hex": (as_content("zz" * 32 + "\n"), errors.Damaged),
    "31 bytes": (as_content("ab" * 31 + "\n"), errors.Damaged),
    "33 bytes": (as_content("ab" * 33 + "\n"), errors.Damaged),
    "upper case": (as_content("AB" * 32 + "\n"), errors.Damaged),
    "two newlines": (as_content("ab" * 32 + "\n\n"), errors.Damaged),
    "large": (as_content("ab" * 500_000), errors.Damaged),
    "readable by the group": (as_mode(0o640), errors.Untrusted),
    "readable by all": (as_mode(0o644), errors.Untrusted),
    "writable by others": (as_mode(0o602), errors.Untrusted),
    "a link": (as_link, errors.Untrusted),
    "a hard link": (as_hard_link, errors.Untrusted),
    "a pipe": (as_pipe, errors.Untrusted),
    "a folder": (as_folder, errors.Untrusted),
    "a socket": (as_socket, errors.Untrusted),
    "another user's": (as_foreign, errors.Untrusted),
}


@pytest.mark.parametrize(("plant", "kind"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_key_is_named_and_replaced(
    plant: Callable[[Path], None], kind: type[errors.State], state: StateDir, tmp_path: Path
) -> None:
    """R17, R20, I22."""
    before = signing.load(state, {})
    elsewhere = tmp_path / "fleet" / "elsewhere"
    plant(state.path / "secret")
    kept = (elsewhere.read_bytes(), elsewhere.stat().st_mode, elsewhere.stat().st_mtime_ns) if elsewhere.exists() else None
    with pytest.raises(kind, match=str(state.path / "secret")):
        signing.load(state, {})

    planted = support.tree(state.path)
    (finding,) = signing.check(state, stamp=7)
    assert (finding.code, finding.subject, finding.fixed) == (f"secret-{kind.code}", "secret", False)
    assert finding.hint
    assert {name: seen for name, seen in support.tree(state.path).items() if not name.startswith("locks")} == {
        name: seen for name, seen in planted.items() if not name.startswith("locks")
    }, "looking changed something"

    (mended,) = signing.check(state, stamp=7, fix=True)
    assert mended == finding.mended()
    assert_is_a_key(state.path)
    assert signing.load(state, {}).secret != before.secret, "others may know the old one"
    assert os.path.lexists(state.path / "quarantine" / "secret.7"), "set aside, not deleted"
    if kept:
        assert (elsewhere.read_bytes(), elsewhere.stat().st_mode, elsewhere.stat().st_mtime_ns) == kept
    assert signing.check(state, stamp=8, fix=True) == []


def test_a_good_key_no_key_and_a_key_in_the_environment_are_healthy(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    assert signing.check(state, stamp=1, fix=True) == []
    assert os.listdir(state.fd) == [], "the doctor makes no key where none is needed"
    signing.load(state, {})
    assert signing.check(state, stamp=1, fix=True) == []
    (state.path / "secret").write_text("nonsense")
    monkeypatch.setenv(VARIABLE, "x" * 32)
    assert signing.check(state, stamp=1, fix=True) == [], "the file is not used"
