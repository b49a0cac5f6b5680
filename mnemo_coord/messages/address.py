"""An address: where a message goes, and the folder that its mailbox lies in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from mnemo_coord import errors
from mnemo_coord.members.identity import check_name, check_role, is_id

__all__ = ["Address", "boxes"]

_BOX: Final = re.compile(r"(name|role)-((?:[0-9a-f]{2}){1,64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a message goes: an instance id, a name, or a role written ``@role``."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Checks an address.

        Raises:
            errors.Config: it is none of the three.
        """
        if not isinstance(text, str):
            raise errors.Config(f"{text!r} is not an address", hint="an instance id, a name or @ROLE", key="address")
        if text.startswith("@"):
            check_role(text)
        elif not is_id(text):
            check_name(text, "address")
        return cls(text)

    @classmethod
    def of_box(cls, folder: str) -> Self | None:
        """The address of a mailbox folder, or None when the folder is no mailbox."""
        if is_id(folder):
            return cls(folder)
        match = _BOX.fullmatch(folder)
        if match is None:
            return None
        with suppress(errors.Config, UnicodeDecodeError):
            found = cls.parse(("@" if match[1] == "role" else "") + bytes.fromhex(match[2]).decode())
            return found if found.folder == folder else None
        return None

    @property
    def is_id(self) -> bool:
        """Whether it names one process, so that its mailbox dies with it."""
        return is_id(self.text)

    @property
    def folder(self) -> str:
        """The name of its mailbox folder."""
        if self.is_id:
            return self.text
        kind = "role" if self.text.startswith("@") else "name"
        return f"{kind}-{self.text.removeprefix('@').encode().hex()}"


def boxes(queue_fd: int) -> Iterator[Address]:
    """The address of every mailbox there is."""
    for folder in sorted(os.listdir(queue_fd)):
        address = Address.of_box(folder)
        if address is not None:
            yield address
