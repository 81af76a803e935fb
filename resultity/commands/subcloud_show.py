"""Owns `subcloud list|show|diff|history`: policies as they are and were."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from p2p.clock import system_clock_ms
from p2p.subclouds.identity import label_of
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.records import KnownPolicy, verify_record
from resultity.commands.options import DATA_DIR, GATEWAY, JSON, NETWORK, PATH
from resultity.commands.subcloud_file import load_policy_file, reported_problems
from resultity.errors import SettingsError
from resultity.role_process import reported_errors
from resultity.subclouds.client import SubcloudClient
from resultity.subclouds.diff import differences
from resultity.subclouds.member_text import printable
from resultity.subclouds.policy_file import NOBODY, Origin
from resultity.subclouds.policy_writing import write_policy_file
from resultity.subclouds.signing import is_record, read_record, write_record
from resultity.targets import find_gateway, find_network

FILE_ENDINGS = (".yaml", ".yml", ".policy")


class _Finder:
    """Finds policies: in files, and through a gateway that is looked for only when needed."""

    def __init__(self, network_id: str | None, gateway: str | None, data_dir: Path | None) -> None:
        self._network_id, self._gateway, self._data_dir = network_id, gateway, data_dir

    def client(self) -> SubcloudClient:
        network = find_network(self._network_id, self._data_dir)
        return SubcloudClient(find_gateway(self._gateway, self._data_dir), network)

    def known(self, name: str) -> KnownPolicy:
        """A signed file, a name or ID, or one version of it (`eu-legal:3`)."""
        path = Path(name)
        if path.is_file():
            network = find_network(self._network_id, self._data_dir)
            return verify_record(read_record(path), network)
        if "/" in name or path.suffix in FILE_ENDINGS:
            raise SettingsError(f"{name[:200]!r}: there is no such file")
        subcloud, colon, version = name.rpartition(":")
        if not colon:
            return self.client().get(name)
        if not version.isdecimal():
            raise SettingsError(f"not a version (NAME:NUMBER): {name[:80]!r}")
        for known in self.client().history(subcloud):
            if known.policy.version == int(version):
                return known
        raise SettingsError(f"version {version} of {subcloud} is not kept (`subcloud history`)")

    def policy(self, name: str) -> SubcloudPolicy:
        """As `known`, or a policy file as it would be signed now."""
        path = Path(name)
        if path.is_file() and not is_record(path):
            with reported_problems(path):
                origin = Origin(NOBODY.network, NOBODY.owner, system_clock_ms())
                return load_policy_file(path).policy(origin)
        return self.known(name).policy


@click.command("show")
@click.argument("name")
@click.option("--yaml", "as_yaml", is_flag=True, help="As the policy file that makes it.")
@click.option("-o", "--output", type=PATH, help="Write the signed record to a file.")
@JSON
@NETWORK
@GATEWAY
@DATA_DIR
def show(
    name: str,
    as_yaml: bool,
    output: Path | None,
    as_json: bool,
    network_id: str | None,
    gateway: str | None,
    data_dir: Path | None,
) -> None:
    """Show the policy in force of NAME (name or ID), of NAME:VERSION, or of a signed file.

    It is verified here: signature, owner's account, handovers.
    """
    with reported_errors():
        known = _Finder(network_id, gateway, data_dir).known(name)
        if output is not None:
            write_record(output, known.record)
            click.echo(f"{output} has version {known.policy.version} of {known.identity}", err=True)
            return
        if as_json:
            click.echo(
                json.dumps(
                    {
                        "id": known.identity,
                        "digest": known.digest,
                        "signer": known.record.policy.signer.hex(),
                        "policy": known.policy.model_dump(mode="json"),
                    }
                )
            )
            return
        text = write_policy_file(known.policy)
        if as_yaml:
            click.echo(text, nl=False)
            return
        for line in _head(known):
            click.echo(line)
        click.echo(text, nl=False)


def _head(known: KnownPolicy) -> list[str]:
    policy = known.policy
    rows = [
        ("id", known.identity),
        ("version", str(policy.version) + (" (the last: it has ended)" if policy.ended else "")),
        ("digest", known.digest),
        ("owner", policy.owner),
        ("signed", f"{_time(policy.issued_ms)} by {known.record.policy.signer.hex()}"),
        ("until", _time(policy.expires_ms)),
    ]
    rows += [("handed over", f"{len(known.record.handovers)} times")] * bool(known.record.handovers)
    return [f"# {name:<12}{value}" for name, value in rows]


def _time(at_ms: int) -> str:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms since 1970"


@click.command("diff")
@click.argument("old")
@click.argument("new")
@NETWORK
@GATEWAY
@DATA_DIR
def diff(
    old: str, new: str, network_id: str | None, gateway: str | None, data_dir: Path | None
) -> None:
    """Compare two policies, field by field; exit code 1 if they differ.

    Each is a policy file, a signed file, a NAME or ID (its version in force), or NAME:VERSION.
    """
    with reported_errors():
        finder = _Finder(network_id, gateway, data_dir)
        lines = differences(finder.policy(old), finder.policy(new))
        for line in lines:
            click.echo(line)
        if lines:
            raise click.exceptions.Exit(1)
        click.echo("no difference", err=True)


@click.command("history")
@click.argument("name")
@JSON
@NETWORK
@GATEWAY
@DATA_DIR
def history(
    name: str, as_json: bool, network_id: str | None, gateway: str | None, data_dir: Path | None
) -> None:
    """List the versions of NAME that the bootstraps keep, newest first, and evidence of forks."""
    with reported_errors():
        client = _Finder(network_id, gateway, data_dir).client()
        versions = client.history(name)
        evidence = client.evidence(name)
        if as_json:
            rows = [
                {
                    "version": known.policy.version,
                    "digest": known.digest,
                    "issued_ms": known.policy.issued_ms,
                    "owner": known.policy.owner,
                    "signer": known.record.policy.signer.hex(),
                    "ended": known.policy.ended,
                }
                for known in versions
            ]
            click.echo(json.dumps({"versions": rows, "evidence": [*evidence]}))
            return
        for known in versions:
            policy = known.policy
            key = known.record.policy.signer.hex()[:16]
            ended = "  ended" if policy.ended else ""
            click.echo(
                f"{label_of(known.identity)}:{policy.version}  {_time(policy.issued_ms)}  "
                f"{known.digest}  {policy.owner}  key {key}{ended}"
            )
        for entry in evidence:
            kind, seen_ms = json.dumps(entry.get("kind")), entry.get("seen_ms")
            when = _time(seen_ms) if isinstance(seen_ms, int) else "once"
            click.echo(f"evidence of {kind}, seen {when}: --json has both documents")


@click.command("list")
@JSON
@NETWORK
@GATEWAY
@DATA_DIR
def list_subclouds(
    as_json: bool, network_id: str | None, gateway: str | None, data_dir: Path | None
) -> None:
    """List the subclouds of the network, as the bootstraps tell of them.

    Those without a name of the registry's are addressed by their ID.
    """
    with reported_errors():
        for found in _Finder(network_id, gateway, data_dir).client().list():
            if as_json:
                click.echo(json.dumps(asdict(found)))
                continue
            state = "ended" if found.ended else f"until {_time(found.expires_ms)[:10]}"
            name = found.label or found.subcloud_id
            line = f"{name}  {found.join}  version {found.version}  {state}  {found.owner}"
            click.echo(printable(line))
