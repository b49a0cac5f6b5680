"""``mnemosyne hooks``: a hook of git that refuses commits of files that others hold."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.fleets import worktree_owner
from mnemo_coord.cli.output import document, line, talk

if TYPE_CHECKING:
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.holdings.guard import Refusal
    from mnemo_coord.holdings.hooks import Hook, Place

_BYPASS: Final = "MNEMOSYNE_BYPASS"
_GIT_TIMEOUT: Final = 10.0
"""Seconds: somebody waits for the commit."""
_MOST_SHOWN: Final = 20

_elsewhere = click.option(
    "--shared", "elsewhere", is_flag=True, help="Also where the hooks are those of other repositories too."
)


@click.group("hooks")
def command() -> None:
    """A pre-commit hook that refuses a commit of files that another instance holds."""


@command.command("install")
@_elsewhere
@common
def install(shared: Common, *, elsewhere: bool) -> int:
    """Put the hook where git looks for it. What is there already is kept, and runs before it.

    With --dir the hook asks that fleet, otherwise the one of the repository in which something is committed.
    """
    from mnemo_coord.disk.state_dir import locate
    from mnemo_coord.holdings import hooks

    place = _place(elsewhere=elsewhere)
    return _tell(shared, hooks.install(place, _program(), str(locate(shared.dir)) if shared.dir else None))


@command.command("uninstall")
@_elsewhere
@common
def uninstall(shared: Common, *, elsewhere: bool) -> int:
    """Take the hook away and put back what was there before. What is not ours stays."""
    from mnemo_coord.holdings import hooks

    return _tell(shared, hooks.uninstall(_place(elsewhere=elsewhere)))


@command.command("status")
@common
def status(shared: Common) -> int:
    """Show whether the hook is there. Exit 1 when it is not, or when git would not run it."""
    from mnemo_coord.holdings import hooks

    hook = hooks.look(hooks.place_of(os.getcwd()))
    _tell(shared, hook)
    return 0 if hook.state is hooks.HookState.INSTALLED and hook.runs else 1


def _place(*, elsewhere: bool) -> Place:
    """Where the hooks of the repository around are.

    Raises:
        errors.Conflict: outside of it, and that was not said to be meant.
    """
    from mnemo_coord.holdings.hooks import place_of

    place = place_of(os.getcwd())
    if place.outside and not elsewhere:
        what = f"{place.folder}: the hooks are outside of this repository (core.hooksPath)"
        raise errors.Conflict(what, hint="--shared if it is meant for every repository that uses them", path=str(place.folder))
    return place


def _program() -> str:
    """The path of this program, for a hook; empty where it cannot be told."""
    beside = Path(sys.executable).with_name("mnemosyne")
    places = (Path(os.path.abspath(sys.argv[0])), beside)
    return next((str(place) for place in places if place.name == "mnemosyne" and os.access(place, os.X_OK)), "")


def _tell(shared: Common, hook: Hook) -> int:
    if shared.as_json:
        document(hook)
    else:
        before = f"; before it runs {hook.before}" if hook.before else ""
        idle = "" if hook.runs or hook.state == "none" else "; it is not executable, so git does not run it"
        line(f"{hook.path}: {_SAID[hook.state]}{before}{idle}")
    if hook.changed and hook.before and _looks_at_its_name(hook.before):
        talk(f"{hook.before} looks at its own name ($0), which is another one now: see that it still does its work")
    return 0


_SAID: Final = {
    "installed": "guards commits",
    "changed": "was installed by mnemosyne, and somebody has changed it since",
    "foreign": "is not mnemosyne's",
    "none": "there is no hook",
}


def _looks_at_its_name(path: str) -> bool:
    """Whether a hook may depend on being called pre-commit, as those of husky and overcommit do."""
    try:
        with open(path, "rb") as stream:
            text = stream.read(65536)
    except OSError:
        return False
    return any(word in text for word in (b"$0", b"${0", b"PROGRAM_NAME", b"__FILE__", b"argv[0]"))


# What the hook runs


@dataclass(frozen=True, kw_only=True, slots=True)
class _Verdict:
    branch: str | None = None
    committer: str | None = None
    bypassed: bool = False
    refused: tuple[Refusal, ...] = ()


@command.command("check")
@common
def check(shared: Common) -> int:
    """Say which staged files others hold: what the hook runs. Exit 1 when there are any.

    Where it cannot be told it says so and exits 0: work must not stop because the guard is blind. MNEMOSYNE_BYPASS=1 lets
    everything pass.
    """
    try:
        verdict = _examine(shared)
    except Exception as error:
        what = error.message if isinstance(error, errors.CoordinationError) else f"{type(error).__name__}: {error}"
        talk(f"mnemosyne: the commit is not checked: {what}")
        verdict = _Verdict()
    if shared.as_json:
        document(verdict)
    elif verdict.bypassed:
        talk(f"mnemosyne: {_BYPASS}: committed all the same: {_counted(verdict.refused)}")
    elif verdict.refused:
        _refuse(verdict)
    return 1 if verdict.refused and not verdict.bypassed else 0


def _examine(shared: Common) -> _Verdict:
    if not _holds_anything(shared):
        return _Verdict()
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.holdings import guard
    from mnemo_coord.holdings.git import Git

    git = Git.of_hook(os.getcwd(), timeout=_GIT_TIMEOUT)
    branch = guard.checked_out(git)
    if branch is None:
        return _Verdict()
    with Fleet.open(shared.dir, create=False) as fleet:
        held, unread = guard.held(fleet.state, fleet.signer, branch, fleet.lives)
        for instance_id in unread:
            talk(f"mnemosyne: what {instance_id} holds cannot be read: it is not checked")
        committer = _committer(fleet)
        found = guard.refusals(guard.staged(git), branch, committer, held) if held else []
    return _Verdict(branch=branch, committer=committer, bypassed=bool(found) and _is_bypassed(), refused=tuple(found))


def _holds_anything(shared: Common) -> bool:
    """Whether there is a fleet in which anybody works on a branch: most commits are made where nobody does, and load nothing.

    Raises:
        OSError: it cannot be seen.
    """
    from mnemo_coord.disk.state_dir import BRANCHES, locate

    try:
        return any(name.endswith(".json") for name in os.listdir(locate(shared.dir) / BRANCHES))
    except FileNotFoundError:
        return False


def _committer(fleet: Fleet) -> str | None:
    """The instance that commits: the one that MNEMOSYNE_INSTANCE names, else that of the worktree; None for anybody else.

    Never the only one there is, unlike for other commands: what it holds is held against everybody who is not known to be it.
    """
    who = os.environ.get("MNEMOSYNE_INSTANCE") or worktree_owner(fleet)
    try:
        return fleet.find(who).instance_id if who else None
    except errors.NotFound:
        return None


def _is_bypassed() -> bool:
    return os.environ.get(_BYPASS, "").lower() in {"1", "true", "yes", "on"}


def _refuse(verdict: _Verdict) -> None:
    talk(f"mnemosyne: the commit to {verdict.branch} is refused: {_counted(verdict.refused)}")
    for one in verdict.refused[:_MOST_SHOWN]:
        talk(f"  {one.path}: {one.instance_id} {one.reason}")
    if len(verdict.refused) > _MOST_SHOWN:
        talk(f"  and {len(verdict.refused) - _MOST_SHOWN} more")
    asking = f"mnemosyne branch join {shlex.quote(verdict.branch or '')} --mode coordinated --files GLOB --wait 60"
    talk(f"Ask for them: {asking}")
    talk(f"Or commit all the same: {_BYPASS}=1 git commit …")


def _counted(refused: Iterable[Refusal]) -> str:
    """How many files who holds."""
    holders: dict[str, int] = {}
    for one in refused:
        holders[one.instance_id] = holders.get(one.instance_id, 0) + 1
    return ", ".join(f"{number} file{'s' * (number != 1)} held by {holder}" for holder, number in holders.items())
