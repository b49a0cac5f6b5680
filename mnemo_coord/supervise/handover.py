"""Becomes a program that is given listening sockets, by the protocol of sd_listen_fds(3). A script, not for import.

    python handover.py 7,8 COMMAND…

The descriptors become 3, 4 and so on, ``LISTEN_FDS`` says how many they are and ``LISTEN_PID`` whose: that of this process,
which only it can know, and which stays when it becomes the program. Nothing of this package is imported: it starts fast.
"""

import fcntl
import os
import sys

_FIRST = 3


def main(argv: list[str]) -> int:
    """Does it. Returns only when the program cannot be started, with the exit code that a shell would give."""
    given = [int(number) for number in argv[1].split(",")]
    # Out of the way first: one of them may have the number that another one is to get.
    aside = [fcntl.fcntl(number, fcntl.F_DUPFD, _FIRST + len(given)) for number in given]
    for number in given:
        os.close(number)
    for target, source in enumerate(aside, _FIRST):
        os.dup2(source, target, inheritable=True)
        os.close(source)
    os.environ.update(LISTEN_FDS=str(len(given)), LISTEN_PID=str(os.getpid()))
    try:
        os.execvp(argv[2], argv[2:])  # noqa: S606  # the command is a person's own
    except OSError as error:
        sys.stderr.write(f"{argv[2]}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main(sys.argv))
