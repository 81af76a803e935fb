"""Owns the group `ledger`: what the keeper of a ledger, and whoever checks it, does with it."""

from __future__ import annotations

import click

from resultity.commands.ledger_backup import backup, restore
from resultity.commands.ledger_log import audit, export
from resultity.commands.ledger_proof import prove, verify
from resultity.commands.ledger_refusals import refusals


@click.group()
def ledger() -> None:
    """Keep and check a ledger."""


ledger.add_command(backup)
ledger.add_command(restore)
ledger.add_command(refusals)
ledger.add_command(audit)
ledger.add_command(export)
ledger.add_command(prove)
ledger.add_command(verify)
