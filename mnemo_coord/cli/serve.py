"""``mnemosyne serve``: an instance in the foreground."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import configure_logging, document

if TYPE_CHECKING:
    from mnemo_coord.api.server import ApiServer
    from mnemo_coord.coordinator import Coordinator
    from mnemo_coord.events import Event
    from mnemo_coord.holdings.ports import Listener
    from mnemo_coord.messages.message import Message

_log = logging.getLogger("mnemo_coord.serve")

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command("serve")
@click.option(
    "--with-api",
    is_flag=False,
    flag_value="true",
    default="false",
    type=click.BOOL,
    metavar="[true|false]",
    help="Serve the HTTP API.",
)
@click.option("--api-addr", metavar="HOST:PORT", help="First address to try; the ten ports above it follow. [127.0.0.1:3000]")
@click.option("--api-capacity", type=int, metavar="N", help="Events kept for readers that come back. [1000]")
@click.option("--name", metavar="NAME", envvar="MNEMOSYNE_INSTANCE", help="Whose place this instance takes.")
@click.option("--role", "roles", metavar="ROLE", multiple=True, help="What it can do; may be given several times.")
@click.option("--poll-interval", type=float, metavar="S", help="Seconds between two looks without a notification. [2]")
@click.option("--heartbeat-interval", type=float, metavar="S", help="Seconds between two heartbeats. [2]")
@click.option(
    "--worktree",
    is_flag=False,
    flag_value="true",
    default=None,
    type=click.BOOL,
    metavar="[true|false]",
    help="Work in a git worktree of its own. [true inside a linked worktree]",
)
@click.option("--db-path", metavar="PATH", help="The database of memories.")
@click.option("--branch", metavar="BRANCH", help="What to check out there; by default a new one, mnemosyne/<id>.")
@click.option("--watch-edits", is_flag=True, help="Tell the others which files are being changed in the checkout it works in.")
@click.option("-v", "--verbose", is_flag=True, help="Log what is only of interest when something is odd.")
@common
def command(
    shared: Common,
    *,
    with_api: bool,
    name: str | None,
    roles: tuple[str, ...],
    worktree: bool | None,
    branch: str | None,
    watch_edits: bool,
    verbose: bool,
    **flags: Any,
) -> int:
    """Run an instance in the foreground: it registers, beats and logs the messages it gets. Ctrl-C ends it.

    With --json every event is also printed to stdout, one JSON document a line.
    """
    from mnemo_coord.coordinator import Coordinator
    from mnemo_coord.holdings.ports import parse_address
    from mnemo_coord.settings import resolve

    configure_logging(logging.DEBUG if verbose else logging.INFO)
    wait_for_signal = _hold_signals()
    settings = resolve(flags)
    host, port = parse_address(settings.api_addr)
    me = Coordinator(shared.dir, name=name or None, roles=roles, settings=settings)
    listener = _listen(host, port) if with_api else None
    api = None
    try:
        me.register(api=(listener.host, listener.port) if listener else None)
        _watch(me, as_json=shared.as_json)
        api = _serve_api(me, listener) if with_api else None
        _work_in_a_worktree(me, branch, asked=worktree)
        if watch_edits:
            me.watch_edits()
        _log.info("Instance %s is in the fleet at %s", _title(me), me.fleet.state.path)
        wait_for_signal()
        _log.info("Instance %s is leaving", _title(me))
    finally:
        if api:
            api.stop()
        me.unregister()
        if listener:
            listener.socket.close()
    return 0


def _work_in_a_worktree(me: Coordinator, branch: str | None, *, asked: bool | None) -> None:
    """As the seed says: by default only inside a linked worktree, because a main checkout is where a person works."""
    from mnemo_coord import errors
    from mnemo_coord.disk.state_dir import in_linked_worktree

    if asked is False or (asked is None and branch is None and not in_linked_worktree()):
        return
    try:
        made = me.open_worktree(branch)
    except errors.CoordinationError as error:
        if asked or branch:
            raise
        _log.warning("No worktree of its own for instance %s: %s", me.instance_id, error)
        return
    os.chdir(made.path)
    _log.info("Instance %s works in %s, on the branch %s", _title(me), made.path, made.branch)


def _hold_signals() -> Callable[[], None]:
    """Keeps the signals that end us waiting, and returns the function that waits for one. A second one ends us at once.

    They are blocked in every thread and taken by sigwait(2). A handler would not do: the kernel may deliver the signal to any
    thread, and Python's handler then runs only when the main thread next does something, which may be never.
    """
    # A shell's `&` and nohup have SIGINT or SIGHUP ignored; an ignored signal is not kept waiting, which respects that.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)

    def wait() -> None:
        signal.sigwait(_STOPPING)
        for number in _STOPPING:
            signal.signal(number, lambda again, _frame: os._exit(128 + again))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)

    return wait


def _title(me: Coordinator) -> str:
    return f"{me.instance_id} ({me.name})" if me.name else me.instance_id


def _listen(host: str, port: int) -> Listener | None:
    from mnemo_coord.holdings.ports import scan

    return scan(host, port)


def _serve_api(me: Coordinator, listener: Listener | None) -> ApiServer | None:
    from mnemo_coord.holdings.ports import candidates, parse_address

    if listener is None:
        tried = candidates(parse_address(me.fleet.settings.api_addr)[1])
        _log.warning(
            "All ports (%d–%d) are in use. API server unavailable for instance %s. Core functionality not affected.",  # noqa: RUF001
            tried[0],
            tried[-1],
            me.instance_id,
        )
        return None
    from mnemo_coord.api.server import ApiServer

    api = ApiServer(me, listener)
    api.start()
    _log.info("API server [%s] listening on %s", me.instance_id, listener.url)
    _log.debug("`mnemosyne dashboard %s` prints the address of its dashboard", me.instance_id)
    return api


def _watch(me: Coordinator, *, as_json: bool) -> None:
    branches = me.branches  # messages are still handed out while it is leaving

    from mnemo_coord.events import EventKind

    def log_message(message: Message) -> None:
        receiver = "everybody" if message.to_agent is None else message.to_agent
        _log.info("Message %s from %s to %s (%s)", message.message_type, message.from_agent, receiver, message.id)
        _log.debug("with payload %s", message.payload)
        branches.attend(message)

    def log_event(event: Event) -> None:
        with suppress(KeyError):
            if event.kind == EventKind.EDITS_COLLIDED:
                _log.warning("Instance %s, %s: %s", event.instance_id, event.data["reason"], " ".join(event.data["files"]))
            level, text = _SENTENCES[event.kind]
            name = event.data.get("name")
            who = f"{event.instance_id} ({name})" if name else event.instance_id
            _log.log(level, text, who, event.data.get("pid", event.data.get("branch")))

    me.on_event(log_event)
    if as_json:
        me.on_event(document)
    me.on_message(log_message)


_SENTENCES = {
    "instance_registered": (logging.INFO, "Instance %s is here, process %s"),
    "instance_left": (logging.INFO, "Instance %s has left, process %s"),
    "instance_died": (logging.WARNING, "Instance %s died, process %s; what it held is free"),
    "instance_stalled": (logging.WARNING, "Instance %s has stalled, process %s: alive, but no heartbeat"),
    "branch_joined": (logging.INFO, "Instance %s works on the branch %s"),
    "branch_released": (logging.INFO, "Instance %s no longer works on the branch %s"),
    "instance_recovered": (logging.INFO, "Instance %s has recovered, process %s"),
}
