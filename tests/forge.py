"""Makes registrations that nobody registered: properly signed, or not, about any process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mnemo_coord.disk import records, signing
from mnemo_coord.disk.clock import SystemClock
from mnemo_coord.disk.signing import Purpose, Signer
from mnemo_coord.disk.state_dir import StateDir
from mnemo_coord.members.identity import ProcessIdentity
from mnemo_coord.members.registration import Registration


def signer(state_dir: Path) -> Signer:
    """The fleet's own."""
    state = StateDir.open(state_dir)
    try:
        return signing.load(state)
    finally:
        state.close()


def body(instance_id: str, **changes: Any) -> dict[str, Any]:
    """The members of a record about this very process, changed as asked."""
    registration = Registration(
        instance_id=instance_id,
        name=None,
        roles=(),
        registered_at="2026-01-01T00:00:00.000Z",
        seq=1,
        api_port=None,
        api_host=None,
        branch=None,
        worktree_path=None,
        lock=(1, 1),
        process=ProcessIdentity.own(SystemClock()),
    )
    return {**registration.to_body(), **changes}


def sealed(state_dir: Path, members: dict[str, Any], key: Signer | None = None) -> dict[str, Any]:
    """The record as it stands in the registry."""
    return json.loads(records.seal(members, key or signer(state_dir), Purpose.RECORD))


def add(state_dir: Path, instance_id: str, record: Any) -> None:
    """Puts a record into the registry file as anybody with a text editor could."""
    path = state_dir / "process_registry.json"
    document = json.loads(path.read_text())
    document["instances"][instance_id] = record
    beside = path.with_suffix(".forged")  # whole at once: a half-written one would be set aside
    beside.write_text(json.dumps(document))
    beside.chmod(0o600)
    beside.rename(path)
