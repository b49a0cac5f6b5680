"""A claim has one holder, its epoch rises at each taking whatever ended the last, and its holder notices when it is lost."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from unit.fake_clock import FakeClock

from mnemo_coord import errors
from mnemo_coord.disk import signing
from mnemo_coord.disk.signing import Signer
from mnemo_coord.disk.state_dir import StateDir
from mnemo_coord.holdings import claims as room
from mnemo_coord.holdings.claims import Claim, ClaimKind, Claims, Holder

KIND = ClaimKind.SINGLETON
ME, OTHER = "a1b2c3d4", "e5f6a7b8"

TAKE = """
    import sys, time
    from mnemo_coord.disk import signing
    from mnemo_coord.disk.clock import SystemClock
    from mnemo_coord.disk.state_dir import StateDir
    from mnemo_coord.holdings.claims import ClaimKind, Claims
    state = StateDir.open(sys.argv[1])
    claims = Claims(state, signing.load(state), SystemClock())
    claim = claims.take(ClaimKind.SINGLETON, "lamp", "e5f6a7b8")
    print("epoch", claim.epoch, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def claims(state: StateDir, clock: FakeClock) -> Claims:
    return Claims(state, signing.load(state, {}), clock)


@pytest.fixture
def claim(claims: Claims) -> Iterator[Claim]:
    held = claims.take(KIND, "lamp", ME)
    yield held
    held.release()


def files_of(claims: Claims) -> list[str]:
    return claims.state.listing("claims")


def lock_of(claims: Claims, claim: Claim) -> Path:
    return claims.state.path / "claims" / f"{claim.stem}.lock"


# Holding


def test_a_holder_is_known(claims: Claims, claim: Claim) -> None:
    claim.check()
    assert (claim.active, claim.is_held()) == (True, True)
    holder = Holder(claim="lamp", instance_id=ME, pid=os.getpid(), epoch=1, since="2027-01-15T08:00:00.000Z")
    assert claims.held() == [(KIND, holder)]
    assert room.check(claims, fix=True) == []


def test_a_second_is_told_who_holds_it(claims: Claims, claim: Claim) -> None:
    """I19, W1."""
    with pytest.raises(errors.Conflict) as caught:
        claims.take(KIND, "lamp", OTHER)
    assert (caught.value.holder, caught.value.pid, caught.value.exit_code) == (ME, os.getpid(), 4)
    assert str(caught.value) == f"'lamp' is held by instance {ME} (process {os.getpid()})"
    assert caught.value.hint
    claim.check()
    assert claims.epoch(KIND, "lamp") == 1, "who did not get it raised nothing"


def test_another_kind_or_name_is_another_claim(claims: Claims, claim: Claim) -> None:
    with claims.take(ClaimKind.NAME, "lamp", OTHER) as one, claims.take(KIND, "Lamp", OTHER) as two:
        assert {(kind, holder.claim) for kind, holder in claims.held()} == {
            (KIND, "lamp"),
            (ClaimKind.NAME, "lamp"),
            (KIND, "Lamp"),
        }
        one.check()
        two.check()
    claim.check()


def test_where_its_record_is_missing_the_kernel_says_who_holds_it(claims: Claims, claim: Claim) -> None:
    (claims.state.path / "claims" / f"{claim.stem}.json").unlink()
    with pytest.raises(errors.Conflict) as caught:
        claims.take(KIND, "lamp", OTHER)
    assert (caught.value.holder, caught.value.pid) == (None, os.getpid())


def test_a_record_that_nobody_of_us_signed_names_nobody(claims: Claims, claim: Claim, clock: FakeClock) -> None:
    """I15."""
    stranger = Claims(claims.state, Signer(b"x" * 32), clock)
    with pytest.raises(errors.Conflict) as caught:
        stranger.take(KIND, "lamp", OTHER)
    assert caught.value.holder is None
    assert stranger.held() == []


def test_one_of_many_gets_it(claims: Claims) -> None:
    """B4, W1."""
    won: list[Claim] = []
    lost: list[errors.Conflict] = []
    start = threading.Barrier(8)

    def take(number: int) -> None:
        start.wait()
        try:
            won.append(claims.take(KIND, "lamp", f"{number:08x}"))
        except errors.Conflict as error:
            lost.append(error)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    won[0].check()
    won[0].release()


def test_who_waits_gets_it_when_it_is_released(claims: Claims, claim: Claim) -> None:
    threading.Timer(0.05, claim.release).start()
    with claims.take(KIND, "lamp", OTHER, timeout=10) as again:
        again.check()
        assert again.epoch == 2


# Epochs


def test_the_epoch_rises_whatever_ended_the_last(claims: Claims, tmp_path: Path) -> None:
    """I18."""
    assert claims.epoch(KIND, "lamp") == 0
    seen = []
    for _ in range(2):
        with claims.take(KIND, "lamp", ME) as claim:
            seen.append(claim.epoch)
        with support.python(TAKE, tmp_path / "child", claims.state.path) as child:
            seen.append(int(child.wait_for("epoch ").split()[1]))
            with pytest.raises(errors.Conflict) as caught:
                claims.take(KIND, "lamp", ME)
            assert (caught.value.holder, caught.value.pid) == (OTHER, child.pid)
            child.kill()
        with pytest.raises(RuntimeError), claims.take(KIND, "lamp", ME) as claim:
            seen.append(claim.epoch)
            raise RuntimeError
    assert seen == [1, 2, 3, 4, 5, 6]
    assert claims.epoch(KIND, "lamp") == 6


def test_the_epoch_takes_no_space_and_survives_the_doctor(claims: Claims) -> None:
    """I18."""
    for _ in range(5):
        claims.take(KIND, "lamp", ME).release()
    room.check(claims, fix=True)
    (lock,) = files_of(claims)
    status = (claims.state.path / "claims" / lock).stat()
    assert (status.st_size, status.st_blocks, status.st_mode & 0o777) == (5, 0, 0o600)
    with claims.take(KIND, "lamp", ME) as claim:
        assert claim.epoch == 6


# Losing


def close_its_descriptor(claims: Claims, claim: Claim) -> None:
    os.close(claim._descriptor.fd)


def give_its_descriptor_to_another_file(claims: Claims, claim: Claim) -> None:
    with open(os.devnull, "rb") as other:
        os.dup2(other.fileno(), claim._descriptor.fd)


def unlink_its_file(claims: Claims, claim: Claim) -> None:
    lock_of(claims, claim).unlink()


def rename_its_file(claims: Claims, claim: Claim) -> None:
    lock_of(claims, claim).rename(lock_of(claims, claim).with_suffix(".away"))


def replace_its_file(claims: Claims, claim: Claim) -> None:
    new = lock_of(claims, claim).with_suffix(".new")
    new.write_bytes(b"\0")
    new.chmod(0o600)
    new.rename(lock_of(claims, claim))


def raise_its_epoch(claims: Claims, claim: Claim) -> None:
    os.truncate(lock_of(claims, claim), claim.epoch + 1)


def replace_the_state_directory(claims: Claims, claim: Claim) -> None:
    shutil.rmtree(claims.state.path)
    claims.state.reopen()


def release_it(claims: Claims, claim: Claim) -> None:
    claim.release()


@pytest.mark.parametrize(
    "lose",
    [
        close_its_descriptor,
        give_its_descriptor_to_another_file,
        unlink_its_file,
        rename_its_file,
        replace_its_file,
        raise_its_epoch,
        replace_the_state_directory,
        release_it,
    ],
)
def test_a_holder_notices_that_it_lost_it(lose: Any, claims: Claims) -> None:
    """I16, I17."""
    claim = claims.take(KIND, "lamp", ME)
    lose(claims, claim)
    assert not claim.is_held()
    with pytest.raises(errors.LeaseLost, match="'lamp' is no longer held at epoch 1") as caught:
        claim.check()
    assert caught.value.exit_code == 4
    claim.release()


def test_who_lost_it_does_not_remove_its_successors_record(claims: Claims) -> None:
    claim = claims.take(KIND, "lamp", ME)
    unlink_its_file(claims, claim)
    with claims.take(KIND, "lamp", OTHER) as successor:
        claim.release()
        successor.check()
        assert [holder.instance_id for _, holder in claims.held()] == [OTHER]


def test_a_lock_file_that_went_while_it_was_waited_for_is_no_claim(claims: Claims, claim: Claim) -> None:
    """I17. Two would hold it: one the file that is gone, one the new one."""
    taken: list[Claim] = []
    lost: list[errors.LeaseLost] = []

    def wait() -> None:
        try:
            taken.append(claims.take(KIND, "lamp", OTHER, timeout=10))
        except errors.LeaseLost as error:
            lost.append(error)

    waiter = threading.Thread(target=wait)
    path = lock_of(claims, claim)
    inode = path.stat().st_ino
    waiter.start()

    def opened_twice() -> bool:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
        return sum(_inode(number) == inode for number in numbers) >= 2

    support.wait_until(opened_twice, what="the waiter has opened the file")
    path.unlink()
    claim.release()
    waiter.join()
    assert len(taken) + len(lost) == 1
    assert all(one.is_held() for one in taken), "either it has the new file, or it is told"
    for one in taken:
        one.release()
    with claims.take(KIND, "lamp", ME) as again:
        again.check()


def _inode(number: int) -> int:
    try:
        return os.fstat(number).st_ino
    except OSError:
        return 0


# Records


def test_releasing_removes_the_record_and_can_be_done_twice(claims: Claims) -> None:
    claim = claims.take(KIND, "lamp", ME)
    assert files_of(claims) == [f"{claim.stem}.json", f"{claim.stem}.lock"]
    claim.release()
    claim.release()
    assert files_of(claims) == [f"{claim.stem}.lock"]
    assert claims.held() == []


def test_the_records_of_a_dead_one_are_removed_and_no_others(claims: Claims, claim: Claim, tmp_path: Path) -> None:
    """I13, V17."""
    program = TAKE.replace('"lamp"', '"kettle"')
    with support.python(program, tmp_path / "child", claims.state.path) as child:
        child.wait_for("epoch ")
        claims.release_of(OTHER)
        assert len(claims.held()) == 2, "it lives: its lock is held"
        child.kill()
    assert [holder.claim for _, holder in claims.held()] == ["lamp"], "by the kernel's word"
    assert len(claims.stems()) == 2
    claims.release_of(OTHER)
    assert claims.stems() == [claim.stem]
    claim.check()


def test_the_doctor_removes_the_record_of_a_free_claim(claims: Claims, claim: Claim, tmp_path: Path) -> None:
    """I22."""
    program = TAKE.replace('"lamp"', '"kettle"')
    with support.python(program, tmp_path / "child", claims.state.path) as child:
        child.wait_for("epoch ")
        assert room.check(claims, fix=True) == []
        child.kill()
    before = support.tree(claims.state.path)
    (finding,) = room.check(claims)
    assert (finding.code, finding.subject) == ("claim-stale", f"claims/singleton-{b'kettle'.hex()}.json")
    assert not finding.fixed
    assert support.tree(claims.state.path) == before
    (mended,) = room.check(claims, fix=True)
    assert mended == finding.mended()
    assert room.check(claims, fix=True) == []
    claim.check()


def test_a_record_without_its_lock_file_is_removed_too(claims: Claims) -> None:
    """I22."""
    claim = claims.take(KIND, "lamp", ME)
    claim._descriptor.close()
    unlink_its_file(claims, claim)
    (finding,) = room.check(claims, fix=True)
    assert finding.fixed
    assert room.check(claims) == []


# Names


@pytest.mark.parametrize("name", ["a", "../../x", "a/b", ".", "x" * 100, "ü" * 50, "\n", "\0", "whatsapp", "🙂"], ids=ascii)
def test_any_text_is_a_name_and_none_is_a_path(name: str, claims: Claims) -> None:
    """S3."""
    with claims.take(KIND, name, ME) as claim:
        assert claims.held()[0][1].claim == name
        assert claim.stem == f"singleton-{name.encode().hex()}"
        assert sorted(path.name for path in claims.state.path.iterdir()) == ["claims", "locks", "secret"]


@pytest.mark.parametrize("name", ["", "x" * 101, "ü" * 51, "\ud800", None, 7, b"x"], ids=lambda name: ascii(name)[:20])
def test_no_name(name: Any, claims: Claims) -> None:
    with pytest.raises(errors.Config):
        claims.take(KIND, name, ME)
    assert files_of(claims) == []


@pytest.mark.parametrize(
    "changes", [{"pid": "7"}, {"pid": True}, {"epoch": None}, {"claim": 1}, {"instance_id": None}, {"since": 0}], ids=str
)
def test_no_record(changes: dict[str, Any]) -> None:
    body = {"claim": "lamp", "instance_id": ME, "pid": 7, "epoch": 1, "since": "", **changes}
    with pytest.raises(ValueError, match="not a claim"):
        Holder.from_body(body)
