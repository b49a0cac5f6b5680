"""File systems whose locks prove nothing: said once, and nobody is reaped for a lock that looks free there."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import support


def test_a_network_file_system_is_named_and_proves_no_death(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """C20. The table of such file systems is made to hold the one of this test; there is no NFS server here."""
    from mnemo_coord import Coordinator, Settings
    from mnemo_coord.disk import file_system

    monkeypatch.setattr(file_system, "_UNRELIABLE", re.compile(".*"))
    with support.Serve(state_dir) as one, Coordinator(state_dir, settings=Settings(poll_interval=0.1)) as me:
        assert "where locks prove nothing" in caplog.text
        lock = state_dir / "instances" / f"{one.instance_id}.lock"
        assert file_system.unreliable_file_system(me.fleet.state.fd)
        one.send_signal(signal.SIGSTOP)  # so that it does not take its lock again
        copy = lock.read_bytes()
        lock.unlink()
        lock.write_bytes(copy)  # a free lock, of a process that lives
        lock.chmod(0o600)
        assert me.cleanup_stale() == []
        one.kill()
        support.wait_until(lambda: [i.instance_id for i in me.instances()] == [me.instance_id], what="its process is gone")
    monkeypatch.undo()
    assert file_system.unreliable_file_system(os.open("/proc", os.O_RDONLY)) == ""


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "virtiofs"])
def test_which_file_systems_are_not_relied_on(kind: str) -> None:
    from mnemo_coord.disk import file_system

    assert file_system._UNRELIABLE.fullmatch(kind)
    assert not any(
        file_system._UNRELIABLE.fullmatch(local) for local in ("ext4", "tmpfs", "btrfs", "xfs", "overlay", "fuseblk")
    )
