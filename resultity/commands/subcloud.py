"""Owns the command group `subcloud`: the list of its commands; each lives in its own module."""

from __future__ import annotations

import click

from resultity.lazy_group import LazyGroup

COMMANDS = {
    "new": ("resultity.commands.subcloud_file:new", "Write a policy file to begin with."),
    "check": ("resultity.commands.subcloud_file:check", "Say everything that is wrong in a file."),
    "sign": ("resultity.commands.subcloud_sign:sign", "Sign a policy file, offline."),
    "publish": ("resultity.commands.subcloud_publish:publish", "Put a policy in force."),
    "list": ("resultity.commands.subcloud_show:list_subclouds", "List the network's subclouds."),
    "show": ("resultity.commands.subcloud_show:show", "Show the policy in force."),
    "diff": ("resultity.commands.subcloud_show:diff", "Compare two policies, field by field."),
    "history": ("resultity.commands.subcloud_show:history", "List the versions of a policy."),
    "revoke": ("resultity.commands.subcloud_publish:revoke", "End a subcloud for good."),
    "resign": ("resultity.commands.subcloud_publish:resign", "Sign a version with another key."),
    "handover": ("resultity.commands.subcloud_publish:handover", "Give a subcloud away."),
    "delegate": ("resultity.commands.subcloud_delegate:delegate", "Make the keys that admit."),
    "members": ("resultity.commands.subcloud_members:members", "Admit, ban and invite nodes."),
    "attest": ("resultity.commands.subcloud_attest:attest", "Vouch for a node's place, machine."),
    "token": ("resultity.commands.subcloud_token:token", "Let callers in by tokens."),
    "status": ("resultity.commands.subcloud_status:status", "See members, load and income."),
    "steward": ("resultity.commands.subcloud_steward:steward", "Renew memberships by rule."),
    "usage": ("resultity.commands.subcloud_usage:usage", "Show or export jobs and income."),
    "stake": ("resultity.commands.subcloud_stake:stake", "Set credits aside for a subcloud."),
    "unstake": ("resultity.commands.subcloud_stake:unstake", "Take a stake back."),
}


@click.group("subcloud", cls=LazyGroup, lazy=COMMANDS)
def subcloud() -> None:
    """Define a subcloud by a policy, publish it, see to its members."""
