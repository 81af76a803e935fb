"""Owns the command `resultity`: the list of commands; each lives in resultity/commands/."""

from __future__ import annotations

import click

from resultity.lazy_group import LazyGroup

COMMANDS = {
    "up": ("resultity.commands.up:up", "Start a network of your own on this machine."),
    "down": ("resultity.commands.down:down", "Stop the network that `up` started."),
    "ask": ("resultity.commands.ask:ask", "Ask a model and stream its answer."),
    "demo": ("resultity.commands.demo:demo", "Show a whole network at work, then remove it."),
    "explore": ("resultity.commands.explore:explore", "Look at a live network."),
    "node": ("resultity.commands.roles:node", "Serve a model to a network."),
    "gateway": ("resultity.commands.roles:gateway", "Offer a network as an OpenAI API."),
    "bootstrap": ("resultity.commands.roles:bootstrap", "Let peers in, keep the ledger."),
    "ledger": ("resultity.commands.ledger:ledger", "Keep and check a ledger."),
    "network": ("resultity.commands.network:network", "Found and configure a network."),
    "account": ("resultity.commands.account:account", "Open accounts, keep their keys."),
    "namespace": ("resultity.commands.namespace:namespace", "Open and list namespaces."),
    "key": ("resultity.commands.key:key", "Create, list, rotate and revoke API keys."),
    "subcloud": ("resultity.commands.subcloud:subcloud", "Define subclouds by policies."),
    "payments": ("resultity.commands.payments:payments", "Take payments for credit."),
    "admin": ("resultity.commands.admin:admin", "Grant credit."),
    "usage": ("resultity.commands.usage:usage", "See what was used."),
    "rcp": ("resultity.commands.rcp:rcp", "See contribution points."),
    "dispute": ("resultity.commands.dispute:dispute", "Contest a charge, answer, decide."),
    "receipt": ("resultity.commands.receipt:receipt", "Verify a receipt."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
@click.version_option(package_name="resultity")
def main() -> None:
    """Resultity: other people's computers behind one OpenAI-compatible API.

    Start with `resultity up`. Each command explains itself with --help.
    """


if __name__ == "__main__":
    main(prog_name="resultity")
