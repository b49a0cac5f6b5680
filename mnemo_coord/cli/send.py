"""``mnemosyne send``: one message to an address, or to everybody."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from mnemo_coord import errors
from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import complain, document, line, talk

if TYPE_CHECKING:
    from mnemo_coord.messages.delivery import Receipt

_STDIN_LIMIT = 64 * 1024
_UNNAMED = "cli"


@click.command("send")
@click.option("--to", "address", metavar="ADDRESS", help="An instance id, a name or @ROLE.")
@click.option("--all", "everybody", is_flag=True, help="Every live instance.")
@click.option("--from", "sender", metavar="NAME", envvar="MNEMOSYNE_INSTANCE", help="Who says it. [cli]")
@click.option("--durable", is_flag=True, default=None, help="Survive a power cut, not only the death of a process.")
@click.option("--id", "message_id", metavar="ID", help="Its id: sent again under the same one, it stays one message.")
@click.option("--reply-to", metavar="ID", help="The message that it answers.")
@click.option("--ttl", type=float, metavar="S", help="Seconds after which it is worth nothing.")
@click.argument("message_type", metavar="TYPE")
@click.argument("payload", required=False)
@common
def command(
    shared: Common,
    *,
    address: str | None,
    everybody: bool,
    sender: str | None,
    message_type: str,
    payload: str | None,
    **options: Any,
) -> int:
    """Send one message. PAYLOAD is JSON; - reads it from stdin."""
    from mnemo_coord.fleet import Fleet
    from mnemo_coord.members.identity import check_name

    if (address is None) is not everybody:
        raise click.UsageError("Give exactly one of --to ADDRESS and --all.")
    who, content = check_name(sender or _UNNAMED, "sender"), _parse(payload)
    with Fleet.open(shared.dir) as fleet:
        if address is None:
            receipt = fleet.broadcast(message_type, content, sender=who, **options)
        else:
            receipt = fleet.send(address, message_type, content, sender=who, **options)
    return _report(receipt, shared, address)


def _parse(payload: str | None) -> Any:
    text = sys.stdin.read(_STDIN_LIMIT) if payload == "-" else payload
    if text is None:
        return {}
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.Config(f"PAYLOAD is not JSON: {error}", hint='such as \'{"branch":"main"}\'', key="payload") from None


def _report(receipt: Receipt, shared: Common, address: str | None) -> int:
    if address is not None and receipt.failed:
        unknown = errors.UnknownAddress(f"{address}: {receipt.failed[0].reason}")
        more = _members(receipt) if shared.as_json else {}
        return complain(unknown.code, unknown.message, unknown.hint, unknown.exit_code, as_json=shared.as_json, **more)
    if shared.as_json:
        document(_members(receipt))
    else:
        line(receipt.id)
        for failure in receipt.failed:
            talk(f"mnemosyne: {failure.address}: {failure.reason}")
        if receipt.duplicate:
            talk("It was sent before under this id; nothing was added.")
        if receipt.waiting:
            talk(f"Nobody is {receipt.waiting[0]} now; the message waits.")
    return 1 if receipt.failed else 0


def _members(receipt: Receipt) -> dict[str, Any]:
    return {
        "id": receipt.id,
        "delivered": receipt.delivered,
        "waiting": receipt.waiting,
        "failed": receipt.failed,
        "duplicate": receipt.duplicate,
    }
