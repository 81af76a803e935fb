"""Makes tests/vectors/messages.json: every wire message once, in its exact bytes.

Run `python tools/make_vectors.py` after a message was added or changed on purpose, and look at the
difference: a line that changed means that peers of the last release are not understood any more. A
field that was added at the end changes its line too; tests/vectors/ then keeps the old line under
`older`, by hand, so that it goes on being read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from p2p import (
    account_messages,
    claim_messages,
    codec,
    conduct_messages,
    dispute_messages,
    job_messages,
    lease_messages,
    ledger_messages,
    log_messages,
    membership,
    mirror_messages,
    node_invites,
    opening_messages,
    stake_messages,
    subcloud_usage_messages,
    usage_messages,
)
from p2p.admission import JoinRequest
from p2p.adverts import Advert
from p2p.api_keys import hold_mac, lookup_mac, new_api_key
from p2p.certificates import Certificate, GatewayBinding
from p2p.codec import Limit, Message, Range, encode_message
from p2p.job_messages import OUTPUT_HASH_START, next_output_hash
from p2p.network_configuration import PURPOSE as CONFIGURATION
from p2p.node_invites import NodeBinding
from p2p.signing import Document, KeyPair, Signed
from p2p.subclouds import directory_messages, evidence_messages, memberships
from p2p.subclouds import invites as subcloud_invites
from p2p.subclouds import requests as subcloud_requests
from p2p.subclouds.identity import subcloud_id
from p2p.subclouds.policy import Handover, SubcloudPolicy, sign_policy
from p2p.subclouds.tokens import CallerToken
from p2p.types import NetworkId, Role, account_id_from_founding, network_id
from p2p.wire import encode_frame

PATH = Path(__file__).resolve().parents[1] / "tests" / "vectors" / "messages.json"
MODULES = (
    "p2p.account_messages",
    "p2p.account_proof",
    "p2p.admission",
    "p2p.adverts",
    "p2p.calls",
    "p2p.certificates",
    "p2p.claim_messages",
    "p2p.conduct_messages",
    "p2p.dispute_messages",
    "p2p.reaching.gateway_statements",
    "p2p.gateway_admission",
    "p2p.hardware",
    "p2p.job_messages",
    "p2p.key_limits",
    "p2p.lease_messages",
    "p2p.ledger_messages",
    "p2p.link",
    "p2p.log_messages",
    "p2p.logprob_messages",
    "p2p.membership",
    "p2p.mirror_messages",
    "p2p.node_invites",
    "p2p.opening_messages",
    "p2p.prices",
    "p2p.reaching.relay_messages",
    "p2p.signing",
    "p2p.stake_messages",
    "p2p.subcloud_usage_messages",
    "p2p.subclouds.directory_messages",
    "p2p.subclouds.evidence_messages",
    "p2p.subclouds.invites",
    "p2p.subclouds.memberships",
    "p2p.subclouds.policy",
    "p2p.subclouds.policy_evidence",
    "p2p.subclouds.records",
    "p2p.subclouds.requests",
    "p2p.subclouds.tokens",
    "p2p.usage_messages",
    "node.runtime_messages",
)
"""All modules with messages; tests/unit/p2p/test_p2p_vectors.py finds one that is missing here."""

SEEDS = {"authority": 1, "bootstrap": 2, "gateway": 3, "node": 4, "account": 5, "mint": 6}
KEYS = {name: KeyPair(number.to_bytes(32, "big")) for name, number in SEEDS.items()}
NETWORK: NetworkId = network_id("vectors", KEYS["authority"].public_key)
NOW_MS = 1_800_000_000_000
SIGNED_FIELDS: dict[str, tuple[type[Document], str]] = {
    "offer": (job_messages.Offer, "gateway"),
    "voucher": (ledger_messages.Voucher, "bootstrap"),
    "accept": (job_messages.Accept, "node"),
    "receipt": (job_messages.NodeReceipt, "node"),
    "delivery": (job_messages.DeliveryCount, "gateway"),
    "chain": (Certificate, "authority"),
    "issuer_chain": (Certificate, "authority"),
    "founding": (ledger_messages.AccountFounding, "account"),
    "binding": (NodeBinding, "account"),
    "grants": (ledger_messages.Grant, "mint"),
    "epoch": (usage_messages.RcpEpoch, "bootstrap"),
    "log_key": (log_messages.LogKey, "bootstrap"),
    "alarm": (mirror_messages.LogAlarm, "bootstrap"),
    "invite": (opening_messages.AccountInvite, "authority"),
    "invited": (opening_messages.InvitedFounding, "account"),
    "NodeAdmission.invite": (opening_messages.NodeInvite, "authority"),
    "JoinText.invite": (opening_messages.NodeInvite, "authority"),
    "InviteUse.invite": (subcloud_invites.SubcloudInvite, "account"),
    "SubcloudInviteText.invite": (subcloud_invites.SubcloudInvite, "account"),
    "use": (subcloud_invites.InviteUse, "account"),
    "caller_token": (CallerToken, "account"),
    "admission": (node_invites.NodeAdmission, "account"),
    "opening": (opening_messages.InvitedFounding, "account"),
    "lease": (lease_messages.Lease, "bootstrap"),
    "hold": (lease_messages.LeasedHold, "gateway"),
    "captures": (lease_messages.LeasedCapture, "gateway"),
    "notice": (lease_messages.LedgerNotice, "bootstrap"),
    "resolution": (dispute_messages.DisputeResolution, "mint"),
    "answers": (dispute_messages.DisputeAnswer, "account"),
    "leased_hold": (lease_messages.LeasedHold, "gateway"),
    "claims": (claim_messages.Claim, "node"),
    "certificate": (memberships.MembershipCertificate, "account"),
    "statement": (memberships.MembershipStatement, "node"),
    "evidence": (evidence_messages.LandmarkStatement, "gateway"),
    "handovers": (Handover, "account"),
    "proof": (GatewayBinding, "account"),
    "changes": (account_messages.AccountKeyChange, "account"),
}
"""What travels in each field of type Signed, and who signs it here."""
SIGNERS: dict[type[Document], str] = {
    **dict(SIGNED_FIELDS.values()),
    membership.Hello: "node",
    JoinRequest: "node",
    Advert: "node",
    usage_messages.UsageRequest: "account",
    usage_messages.UptimeRecord: "bootstrap",
    conduct_messages.ConductReport: "bootstrap",
    stake_messages.SubcloudStake: "account",
    stake_messages.SubcloudUnstake: "account",
    subcloud_usage_messages.SubcloudUsageRequest: "account",
    log_messages.InclusionRequest: "account",
    opening_messages.Referral: "account",
    dispute_messages.DisputeOpening: "account",
    dispute_messages.DisputeRequest: "account",
    directory_messages.SubcloudJoinRequest: "node",
    subcloud_requests.SubcloudRequest: "account",
    subcloud_requests.JoinDenial: "account",
    CallerToken: "account",
    evidence_messages.LandmarkEcho: "node",
    evidence_messages.Attestation: "account",
    evidence_messages.BenchmarkReceipt: "node",
}


def message_classes() -> dict[int, type[Message]]:
    """Every registered message class by its number."""
    for module in MODULES:
        importlib.import_module(module)
    return dict(sorted(codec._classes.items()))


def example(cls: type[Message]) -> Message:
    """Make the one instance of a class that its vector shows."""
    if cls is Signed:
        return KEYS["account"].sign(NETWORK, typing.cast(Document, example(NodeBinding)))
    hints = typing.get_type_hints(cls, include_extras=True)
    values = [
        _value(hints[field.name], cls, field.name)
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
    ]
    return cls(*values)


def signed_example(cls: type[Document]) -> Signed:
    """Make a class's instance and sign it with the fixed key of who signs such documents."""
    signer = KEYS[SIGNERS.get(cls, "gateway")]
    return signer.sign(NETWORK, typing.cast(Document, example(cls)))


def signed_policy() -> Signed:
    """A policy that asks for nothing."""
    owner = account_id_from_founding(b"owner")
    policy = SubcloudPolicy(
        network_id=NETWORK,
        subcloud_id=subcloud_id(NETWORK, owner, "team"),
        version=1,
        issued_ms=NOW_MS,
        expires_ms=NOW_MS + 1,
        owner=owner,
    )
    return sign_policy(KEYS["account"], policy)


def signed_configuration() -> Signed:
    """Sign a network configuration: JSON, as short as it can be."""
    authority = KEYS["authority"]
    fields = {"network_id": NETWORK, "version": 1, "issued_ms": NOW_MS}
    body = json.dumps(fields).encode()
    return Signed(body, authority.public_key, authority.sign_bytes(NETWORK, CONFIGURATION, body))


def _value(hint: Any, cls: type[Message], name: str) -> Any:
    bounds: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *rest = typing.get_args(hint)
        bounds = tuple(rest)
    kind = getattr(hint, "__name__", "")
    hint = getattr(hint, "__supertype__", hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = next(part for part in typing.get_args(hint) if part is not type(None))
        return _value(inner, cls, name)
    limit = next((bound for bound in bounds if isinstance(bound, Limit)), Limit(1024))
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        count = min(2, limit.length_max)
        return tuple(_value(element, cls, name) for _ in range(count))
    if isinstance(hint, type) and issubclass(hint, Message):
        if hint is Signed and name == "configuration":
            return signed_configuration()
        if hint is Signed and name in ("policy", "offered", "known"):
            return signed_policy()
        if hint is Signed:
            document, signer = SIGNED_FIELDS.get(f"{cls.__name__}.{name}") or SIGNED_FIELDS[name]
            return KEYS[signer].sign(NETWORK, typing.cast(Document, example(document)))
        return example(hint)
    return _plain(hint, kind, bounds, limit, f"{cls.__name__}.{name}")


def _plain(hint: Any, kind: str, bounds: tuple[Any, ...], limit: Limit, where: str) -> Any:
    draw = hashlib.sha256(where.encode()).digest()
    if hint is bool:
        return True
    if hint is float:
        return 12.5
    if hint is int:
        if where.endswith("_ms") and not any(isinstance(bound, Range) for bound in bounds):
            return NOW_MS
        wanted = next((bound for bound in bounds if isinstance(bound, Range)), Range(0, 10**6))
        return wanted.minimum + draw[0] % (min(wanted.maximum - wanted.minimum, 10**6) + 1)
    if hint is bytes:
        length = max(limit.length_min, min(16, limit.length_max))
        return (draw * (length // 32 + 1))[:length]
    return _text(hint, kind, limit, where)


def _text(hint: Any, kind: str, limit: Limit, where: str) -> str:
    if hint is Role:
        return Role.NODE
    if kind == "PeerId":
        return KEYS["gateway" if "gateway" in where else "node"].peer_id
    if kind == "NetworkId":
        return NETWORK
    if kind == "AccountId":
        return account_id_from_founding(b"vectors")
    name = where.rpartition(".")[2]
    return (f"{name} \u00e9\u4e2d" if limit.length_max >= 64 else "abcdefgh")[: limit.length_max]


def messages() -> list[dict[str, Any]]:
    """One entry for each class: the message, and signed if it is a document."""
    entries = []
    for number, cls in message_classes().items():
        entry: dict[str, Any] = {
            "number": number,
            "name": cls.__name__,
            "module": cls.__module__,
            "hex": encode_message(example(cls)).hex(),
        }
        if issubclass(cls, Document):
            entry["purpose"] = cls.PURPOSE
            entry["signed_by"] = SIGNERS.get(cls, "gateway")
            entry["signed_hex"] = encode_message(signed_example(cls)).hex()
        entries.append(entry)
    return entries


def derivations() -> dict[str, Any]:
    """What is derived from keys, hashed or counted, beside the messages."""
    key = new_api_key(bytes(range(42)))
    gateway = KEYS["gateway"].peer_id
    output = next_output_hash(OUTPUT_HASH_START, (1, 2**32 - 1), "h\u00e9")
    return {
        "network_id": NETWORK,
        "keys": {
            name: {"seed": pair.seed.hex(), "public_key": pair.public_key.hex(), "id": pair.peer_id}
            for name, pair in KEYS.items()
        },
        "api_key": {"text": key.text, "hold_key": key.hold_key().hex()},
        "hold_mac": hold_mac(key.hold_key(), NETWORK, gateway, bytes(16), 7, NOW_MS).hex(),
        "lookup_mac": lookup_mac(key.hold_key(), NETWORK, gateway, bytes(16), NOW_MS).hex(),
        "output_hashes": [output.hex(), next_output_hash(output, (), "").hex()],
        "configuration": encode_message(signed_configuration()).hex(),
        "frame": encode_frame(codec.encode_messages([example(Certificate)])).hex(),
    }


def make() -> dict[str, Any]:
    """Everything that the file holds, but the older forms that are kept by hand."""
    return {"derivations": derivations(), "messages": messages()}


def main() -> None:
    """Write the file, keeping its older forms."""
    older = json.loads(PATH.read_text(encoding="utf-8"))["older"] if PATH.exists() else []
    PATH.parent.mkdir(parents=True, exist_ok=True)
    content = {**make(), "older": older}
    PATH.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(content['messages'])} messages in {PATH.name}")


if __name__ == "__main__":
    main()
