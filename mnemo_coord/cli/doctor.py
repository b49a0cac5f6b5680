"""``mnemosyne doctor``: looks at everything, and mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mnemo_coord.cli.commands import Common, common
from mnemo_coord.cli.output import document, line

if TYPE_CHECKING:
    from mnemo_coord.findings import Finding


@click.command("doctor")
@click.option("--fix", is_flag=True, help="Mend what can be mended. Live instances are never touched.")
@click.option("--cleanup-stale", is_flag=True, help="Only clear away dead registrations.")
@click.option("--db-path", metavar="PATH", help="The database of memories to look at.")
@common
def command(shared: Common, *, fix: bool, cleanup_stale: bool, db_path: str | None) -> int:
    """Look at everything. Without --fix nothing is changed. Exit 0: healthy or all fixed, 1: problems remain."""
    from mnemo_coord.doctor import Status, examine
    from mnemo_coord.settings import resolve

    report = examine(shared.dir, fix=fix, only_stale=cleanup_stale and not fix, settings=resolve({"db_path": db_path}))
    if shared.as_json:
        document({"status": report.status, "findings": report.findings})
    else:
        for finding in report.findings:
            _show(finding)
        line({"healthy": "All is well.", "fixed": "All is mended.", "problems": "Problems remain."}[report.status])
    return 1 if report.status is Status.PROBLEMS else 0


def _show(finding: Finding) -> None:
    mark = "fixed" if finding.fixed else finding.severity
    line(f"{mark:<8} {finding.code}: {finding.subject} {finding.message}")
    if not finding.fixed and finding.hint:
        line(f"{'':<8} {finding.hint}")
