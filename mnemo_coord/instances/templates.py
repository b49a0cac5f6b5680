"""Templates: files that differ between instances, such as a web server's configuration.

Only the variables that a template names are replaced, as ``$NAME`` or ``${NAME}``: what else looks like one, such as nginx's
own ``$host``, stays as it is (as with ``envsubst '$A,$B'``). One file is written for each instance.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from mnemo_coord import errors
from mnemo_coord.disk import files
from mnemo_coord.instances.project import Project, Template

__all__ = ["fill", "put", "render"]

_LIMIT = 4 * 1024 * 1024


def fill(text: str, names: Iterable[str], values: Mapping[str, str]) -> str:
    """Replaces these variables in a text, and nothing else."""
    wanted = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    if not wanted:
        return text
    place = re.compile(rf"\$(?:\{{(?P<braced>{wanted})\}}|(?P<plain>{wanted})(?![A-Za-z0-9_]))")
    return place.sub(lambda found: values[found["braced"] or found["plain"]], text)


def render(project: Project, values: Mapping[str, str], filled: Mapping[str, str]) -> list[Path]:
    """Writes the files of one instance, each whole or not at all, and returns them.

    ``values`` are the variables, ``filled`` what stands for ``{slot}`` and the like in the names of the files.

    Raises:
        errors.Config: a template is not there, or names a variable that the instance does not have.
        errors.State: a file cannot be read or written.
    """
    texts = [(_target(project, one, filled), _text(project, one, values), one) for one in project.templates]
    for target, text, one in texts:
        put(target, text, like=project.root / one.source)
    return [target for target, _, _ in texts]


def _target(project: Project, one: Template, filled: Mapping[str, str]) -> Path:
    name = re.sub(r"\{(\w+)\}", lambda found: filled.get(found[1], found[0]), one.target)
    return project.root / name


def _text(project: Project, one: Template, values: Mapping[str, str]) -> str:
    unknown = [name for name in one.variables if name not in values]
    if unknown:
        what = f"{project.root / one.source}: there is no variable {unknown[0]!r}"
        raise errors.Config(what, hint=f"known are {', '.join(values)}", key="templates")
    try:
        with (project.root / one.source).open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            text = stream.read(_LIMIT + 1)
    except FileNotFoundError:
        raise errors.Config(
            f"{project.root / one.source}: is not there", hint="see templates in mnemosyne.yaml", key="templates"
        ) from None
    except OSError as error:
        raise errors.State.at(project.root / one.source, (error.strerror or str(error)).lower()) from None
    return fill(text, one.variables, values)


def put(target: Path, text: str, *, like: Path) -> None:
    """Writes a file whole or not at all, with the mode of another one.

    A file that says what is there already is left alone: who watches it is not woken.

    Raises:
        errors.State: it cannot be written.
    """
    data = text.encode(errors="surrogateescape")
    try:
        with suppress(FileNotFoundError):
            if target.read_bytes() == data:
                return
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with files.opened(folder):
            tmp = f".{target.name}.{os.getpid()}.tmp"
            mode = like.stat().st_mode & 0o777
            files.publish(target.name, data, dir_fd=folder, tmp_name=tmp, tmp_fd=folder, durable=False, mode=mode)
    except OSError as error:
        raise errors.State.at(target, (error.strerror or str(error)).lower()) from None
