"""A consumer receipt against public things: what holds, and everything that must be refused."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from p2p.codec import encode_message, encode_messages
from p2p.ledger_messages import AccountFounding, ConsumerReceipt
from p2p.network_configuration import ApprovedModel, price_terms
from p2p.prices import charge
from p2p.signing import KeyPair
from p2p.subclouds.identity import subcloud_id
from p2p.subclouds.policy import SubcloudPolicy, policy_digest, sign_policy
from p2p.subclouds.records import AccountProof, PolicyRecord
from p2p.subclouds.terms import model_in_subcloud, subcloud_terms
from p2p.types import AccountId, Role, account_id_from_founding, parse_network_id
from resultity.commands.receipt import receipt as receipt_command
from resultity.errors import ReceiptError
from resultity.network_files import NetworkFiles, certify, found_network
from resultity.receipts import VerifiedReceipt, verify_receipt

NOW_MS = 1_800_000_000_000
YEAR_MS = 366 * 86_400_000
ACCOUNT = AccountId("acct-" + "1" * 40)
REQUEST, ANSWER = b'{"model":"m"}', "Paris, naturally: \u00e9."
MODEL = ApprovedModel(
    name="m",
    digest="ab" * 32,
    context_tokens=1024,
    input_microcredits_per_million_tokens=500_000,
    output_microcredits_per_million_tokens=1_500_000,
)


@dataclass
class Bench:
    files: NetworkFiles
    gateway: KeyPair
    document: ConsumerReceipt

    def arguments(self, **changes: Any) -> dict[str, Any]:
        signer = changes.pop("signer", self.gateway)
        fields = {k: changes.pop(k) for k in list(changes) if hasattr(self.document, k)}
        signed = signer.sign(self.files.network(), dataclasses.replace(self.document, **fields))
        chain = certify(
            self.files, self.gateway.peer_id, changes.pop("role", Role.GATEWAY), ACCOUNT, clock_ms
        )
        return {
            "network": self.files.network(),
            "configuration": self.files.configuration()[0],
            "gateway_chain": chain,
            "receipt": encode_message(signed),
            "request": REQUEST,
            "answer": ANSWER,
        } | changes


def clock_ms() -> int:
    return NOW_MS


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    files = found_network(tmp_path / "net", "test", [MODEL], clock_ms)
    terms = price_terms(files.configuration()[1], MODEL)
    document = ConsumerReceipt(
        receipt_id=os.urandom(16),
        account_id=ACCOUNT,
        namespace="default",
        key_id="k" * 16,
        request_hash=hashlib.sha256(REQUEST).digest(),
        output_hash=hashlib.sha256(ANSWER.encode()).digest(),
        terms=terms,
        input_tokens=20,
        output_tokens=8,
        charged=charge(terms, 20, 8),
        outcome="complete",
        commitment=bytes(32),
        at_ms=NOW_MS + 1000,
    )
    return Bench(files, KeyPair.generate(), document)


def test_a_good_receipt(bench: Bench) -> None:
    verified = verify_receipt(**bench.arguments())
    assert verified.receipt.charged == 22
    assert verified.gateway.peer_id == bench.gateway.peer_id


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"request": REQUEST + b" "}, "another request"),
        ({"answer": "Rome."}, "another answer"),
        ({"charged": 23}, "23 microcredits were charged, 22 are right"),
        ({"at_ms": NOW_MS + YEAR_MS}, "not certified at that time"),
        ({"role": Role.BOOTSTRAP}, "not as a gateway"),
        ({"signer": KeyPair.generate()}, "another peer"),
        ({"receipt": b"junk"}, "msgpack"),
        ({"network": parse_network_id("test-" + "0" * 32)}, "authority"),
        ({"gateway_chain": ()}, "certificate"),
    ],
)
def test_what_is_refused(bench: Bench, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ReceiptError, match=complaint):
        verify_receipt(**bench.arguments(**changes))


def test_prices_that_the_configuration_does_not_have(bench: Bench) -> None:
    terms = dataclasses.replace(bench.document.terms, output_microcredits_per_million_tokens=9)
    with pytest.raises(ReceiptError, match="prices are not those"):
        verify_receipt(**bench.arguments(terms=terms, charged=1))
    later = dataclasses.replace(bench.document.terms, configuration_version=2)
    with pytest.raises(ReceiptError, match="get the newer one"):
        verify_receipt(**bench.arguments(terms=later))


def test_one_changed_bit_is_noticed(bench: Bench) -> None:
    arguments = bench.arguments()
    data = bytearray(arguments["receipt"])
    data[len(data) // 2] ^= 1
    with pytest.raises(ReceiptError):
        verify_receipt(**arguments | {"receipt": bytes(data)})


def test_the_command(bench: Bench, tmp_path: Path) -> None:
    arguments = bench.arguments()
    files = {
        "configuration": encode_message(arguments["configuration"]),
        "gateway-chain": encode_messages(arguments["gateway_chain"]),
        "request": REQUEST,
        "answer": ANSWER.encode(),
        "receipt": base64.b64encode(arguments["receipt"]) + b"\n",
    }
    command = ["verify", "--network", arguments["network"]]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        command += [f"--{name}", str(tmp_path / name)]
    done = CliRunner().invoke(receipt_command, command)
    assert done.exit_code == 0, done.output
    assert "verified: 20 tokens in, 8 out, 0.000022 credits" in done.output
    (tmp_path / "answer").write_text("Rome.")
    done = CliRunner().invoke(receipt_command, command)
    assert done.exit_code == 1
    assert "another answer" in done.output


# --- subclouds ------------------------------------------------------------------------------------
OWN_MODEL = MODEL.model_copy(update={"name": "ours", "digest": "cd" * 32})


class SharedBench:
    """A receipt of a job in a subcloud, and the policy that it names."""

    def __init__(self, bench: Bench, model: str = "m", **rules: Any) -> None:
        self.bench = bench
        owner = KeyPair.generate()
        founding = owner.sign(
            network := bench.files.network(),
            AccountFounding(owner.public_key, bytes(32), NOW_MS, bytes(16)),
        )
        account = account_id_from_founding(founding.body)
        identity = subcloud_id(network, account, "team")
        content = {
            "network_id": network,
            "subcloud_id": identity,
            "version": 1,
            "issued_ms": NOW_MS,
            "expires_ms": NOW_MS + YEAR_MS,
            "owner": account,
            "price": {"owner_fee_basis_points": 1_000},
            "models": {"names": ({"name": "m"},), "own": (OWN_MODEL.model_dump(),)},
        }
        self.policy = SubcloudPolicy.model_validate(content | rules)
        signed = sign_policy(owner, self.policy)
        self.record = PolicyRecord(signed, (), (AccountProof(founding),))
        configuration = bench.files.configuration()[1]
        found = model_in_subcloud(configuration, self.policy, model)
        assert found is not None
        self.terms = subcloud_terms(configuration, self.policy, policy_digest(signed), found)

    def verify(self, **changes: Any) -> VerifiedReceipt:
        fields = {k: v for k, v in changes.items() if hasattr(self.terms, k)}
        terms = dataclasses.replace(self.terms, **fields)
        rest = {k: v for k, v in changes.items() if k not in fields}
        arguments = self.bench.arguments(terms=terms, **{"policy": self.record, **rest})
        return verify_receipt(**arguments)


@pytest.mark.parametrize("model", ["m", "ours"])
def test_a_receipt_of_a_subcloud(bench: Bench, model: str) -> None:
    shared = SharedBench(bench, model)
    verified = shared.verify()
    assert verified.policy is not None
    assert verified.policy.policy == shared.policy


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"policy": None}, "is needed too"),
        ({"policy_digest": bytes(32)}, "another version of the policy"),
        ({"subcloud_id": "other-" + "0" * 32}, "this is the policy of"),
        ({"owner_fee_basis_points": 999}, "prices are not those of the subcloud's policy"),
        ({"output_microcredits_per_million_tokens": 1_500_001}, "prices are not those"),
        ({"input_microcredits_per_million_tokens": 1}, "prices are not those"),
    ],
)
def test_what_a_policy_refuses(bench: Bench, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ReceiptError, match=complaint):
        SharedBench(bench).verify(charged=1, **changes)


def test_what_the_policy_says_by_itself(bench: Bench) -> None:
    ceiling = {"owner_fee_basis_points": 0, "input_microcredits_per_million_tokens_max": 1}
    with pytest.raises(ReceiptError, match="above what the subcloud's policy allows"):
        SharedBench(bench, price=ceiling).verify()
    closed = {"gateways": {"accounts": ("acct-" + "9" * 40,)}}
    with pytest.raises(ReceiptError, match="does not let this gateway"):
        SharedBench(bench, **closed).verify()


def test_the_command_shows_the_subcloud(bench: Bench, tmp_path: Path) -> None:
    shared = SharedBench(bench)
    arguments = bench.arguments(terms=shared.terms)
    files = {
        "configuration": encode_message(arguments["configuration"]),
        "gateway-chain": encode_messages(arguments["gateway_chain"]),
        "request": REQUEST,
        "answer": ANSWER.encode(),
        "receipt": base64.b64encode(arguments["receipt"]),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = ["verify", str(tmp_path), "--network", bench.files.network()]
    missing = CliRunner().invoke(receipt_command, command)
    assert missing.exit_code
    assert "is needed too" in missing.output
    (tmp_path / "policy").write_bytes(encode_message(shared.record))
    shown = CliRunner().invoke(receipt_command, command)
    assert shown.exit_code == 0, shown.output
    assert f"in the subcloud {shared.policy.subcloud_id}, by version 1" in shown.output
    assert "10 % to its owner" in shown.output
