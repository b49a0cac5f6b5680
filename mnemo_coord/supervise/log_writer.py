"""Writes what a service prints into its log file, line by line, with time and instance, nothing that could steer a terminal.

    python log_writer.py FILE WHO < output

A process of its own for each service (as svlogd and s6-log are), so that a service can print when its launcher is killed. It
ends when the last process that has the other end of its pipe does. The file is rotated: ``web.log``, ``web.1.log``,
``web.2.log``. A full disk loses lines, which is said as soon as there is room again, and never holds the service up.
"""

import os
import sys
import time
from pathlib import Path
from typing import Final

_LIMIT: Final = 5 * 1024 * 1024
"""Bytes of one file."""
_KEPT: Final = 2
"""Older files."""
_LONGEST: Final = 8 * 1024
"""Bytes of a line; a longer one is written in pieces."""


def _writable(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)


def _rotate(path: Path) -> None:
    for number in range(_KEPT, 0, -1):
        older = path.with_suffix(f".{number}.log")
        newer = path if number == 1 else path.with_suffix(f".{number - 1}.log")
        if newer.exists():
            newer.replace(older)


class _Writer:
    """The file, and what could not be written to it."""

    def __init__(self, path: Path, who: str) -> None:
        self._path, self._who, self._lost = path, who, 0

    def put(self, lines: list[bytes]) -> None:
        from mnemo_coord.display import printable

        now = time.time()
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        texts = [printable(line.decode(errors="replace")) for line in lines]
        if self._lost:
            texts.insert(0, f"({self._lost} lines were lost: the disk was full)")
        data = "".join(f"{at} {self._who} | {text}\n" for text in texts).encode()
        try:
            fd = _writable(self._path)
            try:
                if os.fstat(fd).st_size + len(data) > _LIMIT and os.fstat(fd).st_size:
                    _rotate(self._path)
                    os.close(fd)
                    fd = _writable(self._path)
                while data:
                    data = data[os.write(fd, data) :]
            finally:
                os.close(fd)
            self._lost = 0
        except OSError:
            self._lost += len(lines)


def main(path: str, who: str) -> int:
    """Does it until the end of the input."""
    writer, rest = _Writer(Path(path), who), b""
    while chunk := os.read(0, 64 * 1024):
        *lines, rest = (rest + chunk).split(b"\n")
        while len(rest) >= _LONGEST:
            lines.append(rest[:_LONGEST])
            rest = rest[_LONGEST:]
        pieces = [line[at : at + _LONGEST] for line in lines for at in range(0, len(line) or 1, _LONGEST)]
        if pieces:
            writer.put([piece.removesuffix(b"\r") for piece in pieces])
    if rest:
        writer.put([rest])
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main(sys.argv[1], sys.argv[2]))
