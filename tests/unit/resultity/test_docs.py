"""The documentation says what the code has: commands, messages, error codes, settings, links."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import gateway.errors
from bootstrap.settings import BootstrapSettings
from gateway.settings import GatewaySettings
from node.agent.admission_rules import OperatorRules
from node.settings import NodeSettings
from p2p import codec
from p2p.job_messages import REFUSALS
from p2p.network_configuration import ApprovedModel, NetworkConfiguration
from resultity.cli_reference import cli_reference

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
MESSAGE_MODULES = (
    "p2p.account_messages",
    "p2p.admission",
    "p2p.adverts",
    "p2p.calls",
    "p2p.certificates",
    "p2p.job_messages",
    "p2p.key_limits",
    "p2p.lease_messages",
    "p2p.ledger_messages",
    "p2p.link",
    "p2p.log_messages",
    "p2p.membership",
    "p2p.opening_messages",
    "p2p.usage_messages",
    "node.runtime_messages",
)
ROW = re.compile(r"^\| (\d+) \| `(\w+)` \| (?:`([\w-]+)`)? ?\| (.*) ?\|$", re.MULTILINE)


def reference(name: str) -> str:
    return (DOCS / "reference" / name).read_text()


def test_command_line_reference_is_made_from_the_commands() -> None:
    assert reference("cli.md") == cli_reference(), (
        "write it again: python -m resultity.cli_reference > docs/reference/cli.md"
    )


def test_every_message_is_listed_as_it_is() -> None:
    for module in MESSAGE_MODULES:
        importlib.import_module(module)
    listed = {int(row[0]): row[1:] for row in ROW.findall(reference("protocol.md"))}
    for number, cls in codec._classes.items():
        if not cls.__module__.startswith(("p2p.", "node.")):
            continue
        fields = ", ".join(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]
        expected = (cls.__name__, getattr(cls, "PURPOSE", ""), fields)
        assert tuple(part.strip() for part in listed[number]) == expected


def test_every_error_code_is_listed_with_its_status() -> None:
    rows = reference("errors.md")
    for cls in vars(gateway.errors).values():
        if not (isinstance(cls, type) and issubclass(cls, gateway.errors.GatewayError)):
            continue
        if issubclass(cls, gateway.errors.GatewaySetupError):
            continue
        assert f"| {cls.status} | `{cls.code}` |" in rows, cls


@pytest.mark.parametrize("settings", [NodeSettings, GatewaySettings, BootstrapSettings])
def test_every_setting_is_listed(settings: Any) -> None:
    role = settings.__name__.removesuffix("Settings").lower()
    section = reference("settings.md").split(f"## `[{role}]`")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert listed == {field.name for field in dataclasses.fields(settings)}


def test_every_rule_of_an_operator_is_listed() -> None:
    section = reference("settings.md").split("## `[node.rules]`")[1].split("\n## ")[0]
    for field in dataclasses.fields(OperatorRules):
        assert f"`{field.name}`" in section, field.name


def test_every_refusal_of_a_node_is_listed() -> None:
    section = reference("errors.md").split("## Refusals of nodes")[1]
    for code, meaning in REFUSALS.items():
        assert f"| `{code}` | {meaning} |" in section, code


def test_every_configuration_field_is_listed() -> None:
    text = reference("configuration.md")
    for name in (*NetworkConfiguration.model_fields, *ApprovedModel.model_fields):
        if name != "output_microcredits_per_million_tokens":
            assert name in text, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
