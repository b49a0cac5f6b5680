"""Where the named instances of a project are: the home of the default one, and the file that lists the others.

========================  =====================================================================================
the home                  what the variable says that mnemosyne.yaml names (``home_variable:``), else
                          ``$MNEMOSYNE_DATA_DIR/<project>``, else ``home:`` of mnemosyne.yaml, else ``<data>/<project>``
a workspace               ``<home>_<name>``, unless its entry says another
instances.yaml            in the folder that such a variable says (``config_variable:``), else in
                          ``$MNEMOSYNE_CONFIG_DIR/<project>``, else beside mnemosyne.yaml if it is there, else in the home
========================  =====================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mnemo_coord import errors
from mnemo_coord.instances.ledger import data_dir
from mnemo_coord.instances.project import FILE, Project

__all__ = ["INSTANCES", "home", "instances_file", "tilde"]

INSTANCES: Final = "instances.yaml"
_OURS: Final = frozenset({"locks", "singletons", "stores"})
"""Folders in the data folder that belong to no project."""


def home(project: Project, environ: Mapping[str, str]) -> Path:
    """The workspace of the default instance, links resolved. Touches nothing.

    Raises:
        errors.Config: the project is called like a folder of ours, and would share it.
    """
    own = environ.get(project.home_variable)
    if own:
        return Path(os.path.realpath(os.path.expanduser(own)))
    if project.home and not environ.get("MNEMOSYNE_DATA_DIR"):
        return Path(os.path.realpath(project.root / os.path.expanduser(project.home)))
    if project.name in _OURS:
        what = f"{project.root / FILE}: project: {project.name!r} is a folder that all projects share"
        raise errors.Config(what, hint="call it something else", key="project")
    return Path(os.path.realpath(data_dir(environ) / project.name))


def instances_file(project: Project, environ: Mapping[str, str]) -> Path:
    """Where the named instances are listed. Touches nothing."""
    own = environ.get(project.config_variable)
    if own:
        return Path(os.path.expanduser(own)).absolute() / INSTANCES
    named = environ.get("MNEMOSYNE_CONFIG_DIR")
    if named:
        return Path(os.path.expanduser(named)).absolute() / project.name / INSTANCES
    beside = project.root / INSTANCES
    return beside if os.path.lexists(beside) else home(project, environ) / INSTANCES


def tilde(path: Path) -> str:
    """A path with ``~`` for the home folder of this user."""
    own = os.path.realpath(os.path.expanduser("~"))
    for base in {own, os.path.expanduser("~")} - {"/"}:
        if path.is_relative_to(base) and str(path) != base:
            return f"~/{path.relative_to(base)}"
    return str(path)
