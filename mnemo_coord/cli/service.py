"""``mnemosyne service``: a unit of systemd that runs an instance."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.naming import one_name
from mnemo_coord.cli.output import document, talk

if TYPE_CHECKING:
    from mnemo_coord.instances.named import Named
    from mnemo_coord.instances.project import Project
    from mnemo_coord.supervise.unit import Unit

__all__ = ["command"]

_KEPT: Final = (
    "PATH", "MNEMOSYNE_DIR", "MNEMOSYNE_DATA_DIR", "MNEMOSYNE_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"
)  # fmt: skip
"""What a service manager does not know of our environment, and by which commands and files are found."""


@click.command("service")
@click.option("--name", "name", metavar="NAME", help="The instance; the same as NAME.")
@click.argument("words", nargs=-1, metavar="[NAME] [GROUP]")
@common
def command(shared: Common, *, name: str | None, words: tuple[str, ...]) -> int:
    """Print a systemd user unit that runs an instance, all of its services or those of one group.

    Put it where systemd looks, under the name that is said on stderr:

    mnemosyne service dev > ~/.config/systemd/user/mnemosyne-shop-dev.service
    """
    from mnemo_coord.cli.here import project_here
    from mnemo_coord.instances.named import DEFAULT, Instances
    from mnemo_coord.instances.trust import Trust

    called, *rest = words if name is None and words else (name, *words)
    if len(rest) > 1:
        raise click.UsageError("One NAME and one GROUP at most.")
    project = project_here()
    named = Instances(project).get(one_name(called, None) or DEFAULT)
    group = rest[0] if rest else None
    unit = _unit(shared, project, named, group)
    if shared.as_json:
        document({"name": named.name, "file": unit.file_name, "unit": unit.text()})
        return 0
    sys.stdout.write(unit.text())  # as it is: a unit with other characters was refused
    sys.stdout.flush()
    talk(f"for ~/.config/systemd/user/{unit.file_name}; then systemctl --user enable --now {unit.file_name}")
    if "MNEMOSYNE_SHARED_SECRET" in os.environ:
        talk("mnemosyne: MNEMOSYNE_SHARED_SECRET is not in it: EnvironmentFile= can give it to the unit")
    if not Trust().holds(project):
        talk("mnemosyne: mnemosyne.yaml is not trusted yet, so it would not start (`mnemosyne trust`)")
    return 0


def _unit(shared: Common, project: Project, named: Named, group: str | None) -> Unit:
    from mnemo_coord.cli.start import chosen
    from mnemo_coord.supervise.unit import Unit

    services = chosen(project, group)
    script = Path(sys.executable).parent / "mnemosyne"
    program = [str(script)] if script.exists() else [sys.executable, "-m", "mnemo_coord.cli.main"]
    where = ["--dir", os.path.abspath(shared.dir)] if shared.dir else []
    words = [*program, *where, "start", "--name", named.name, *([group] if group else [])]
    kept = (*_KEPT, project.home_variable, project.config_variable)
    environ = {name: os.environ[name] for name in kept if os.environ.get(name)}
    return Unit(
        project=project.name,
        instance=named.name,
        argv=tuple(words),
        folder=str(project.root),
        environ=environ,
        ready_within=max((one.ready_within for one in services), default=30),
        grace=max((one.grace for one in services), default=10),
    )
