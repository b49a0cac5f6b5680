"""Starts the command of a job once it is told to, waits for its end, and writes down how it ended. A script, not for import.

    python shepherd.py EXIT_FILE START_ID FD COMMAND…

It leads the session of the job. FD is a socket: one byte on it means that the job is recorded as running, and may begin; its
end before that means that the runner is gone, and nothing is started. What is written down, ``<start id> <exit code> [<why>]``,
is also said on the socket, whose end then tells the runner that the command is over. The exit code is negative for a signal,
and ``-`` where the command was never started.

It outlives a runner that is killed, so that the result is known all the same. SIGTERM is for the command, not for it. Whatever
the command starts stays below it (PR_SET_CHILD_SUBREAPER), and it ends when nothing of that is left. Nothing of this package
is imported: it starts fast.
"""

import os
import signal
import sys

_FOR_THE_COMMAND = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_AS_USUAL = {*_FOR_THE_COMMAND, signal.SIGPIPE, signal.SIGXFSZ}
"""What the command gets back: some of it we ignore, the rest Python does."""
_PR_SET_CHILD_SUBREAPER = 36


def _write(path: str, text: bytes) -> None:
    """Whole or not at all. On a disk that is full, or away, the runner has heard it on the socket."""
    try:
        tmp = f"{path}.{os.getpid()}.tmp"
        fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, text) != len(text):
                raise OSError
        finally:
            os.close(fd)
        os.rename(tmp, path)
    except OSError:
        pass


def _say(line: int, path: str, start_id: str, code: str, why: str = "") -> None:
    text = " ".join(filter(None, (start_id, code, why))).encode(errors="replace") + b"\n"
    _write(path, text)
    try:  # noqa: SIM105  # contextlib is a third of what this script loads
        os.write(line, text)
    except OSError:
        pass  # nobody listens any more
    os.close(line)


def _keep_orphans() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main(path: str, start_id: str, line: int, argv: list[str]) -> None:
    """Does it."""
    for number in _FOR_THE_COMMAND:
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(line, False)
    _keep_orphans()
    if not os.read(line, 1):
        _say(line, path, start_id, "-")
        return
    try:
        child = os.posix_spawnp(argv[0], argv, os.environ, setsigdef=_AS_USUAL, setsigmask=())
    except (OSError, ValueError) as error:
        why = f"{argv[0]}: cannot be started: {(getattr(error, 'strerror', None) or str(error)).lower()}"[-1000:]
        sys.stderr.write(f"{why}\n")
        _say(line, path, start_id, "127" if isinstance(error, FileNotFoundError) else "126", why)
        return
    try:
        while True:
            pid, status = os.wait()
            if pid == child:
                _say(line, path, start_id, str(os.waitstatus_to_exitcode(status)))
    except ChildProcessError:
        pass  # nothing is left below us


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
