"""How an owner names the subclouds of an API key, and the policy that a bill keeps."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import ValueRefusedError
from p2p.codec import encode_message
from p2p.key_limits import GLOBAL_POOL, KeyLimits, allows_subcloud, subclouds_problem
from p2p.ledger_messages import ConsumerReceipt
from p2p.types import AccountId
from resultity import bills
from resultity.bills import bill_files, save_bill
from resultity.errors import ReceiptError, SettingsError
from resultity.key_subclouds import with_subclouds
from tests.fakes.ledger_desk import CONFIGURATION
from tests.fakes.ledger_world import GATEWAY, NETWORK, MemoryLedger, World
from tests.fakes.subcloud_ledger import SUBCLOUD, a_policy, a_record, digest_of, terms_in

OTHER = "other-" + "0" * 32


def changed(limits: KeyLimits, *names: str, default: str | None = None) -> KeyLimits:
    registry = {"team": SUBCLOUD}
    return with_subclouds(limits, names, default, lambda name: registry[name])


def test_subclouds_by_name_and_id() -> None:
    limits = KeyLimits(5, 6, 7, ("10.0.0.0/8",))
    found = changed(limits, "team", OTHER, GLOBAL_POOL, "team")
    assert found == KeyLimits(5, 6, 7, ("10.0.0.0/8",), (SUBCLOUD, OTHER, GLOBAL_POOL))
    assert changed(found) == found
    assert changed(found, "any") == limits
    assert changed(limits, "team") == KeyLimits(5, 6, 7, ("10.0.0.0/8",), (SUBCLOUD,), SUBCLOUD)
    assert changed(limits, default="team").default_subcloud == SUBCLOUD
    assert changed(changed(limits, default="team"), default=GLOBAL_POOL) == limits
    with pytest.raises(SettingsError, match="stands alone"):
        changed(limits, "any", "team")
    with pytest.raises(SettingsError, match="not one that it may be used in"):
        changed(limits, "team", default=OTHER)


def test_what_a_key_allows() -> None:
    assert allows_subcloud(KeyLimits(), "")
    assert allows_subcloud(KeyLimits(), SUBCLOUD)
    limits = KeyLimits(subclouds=(SUBCLOUD,))
    assert allows_subcloud(limits, SUBCLOUD)
    assert not allows_subcloud(limits, OTHER)
    assert not allows_subcloud(limits, "")
    assert allows_subcloud(KeyLimits(subclouds=(GLOBAL_POOL,)), "")


@pytest.mark.parametrize(
    "limits",
    [
        KeyLimits(subclouds=("team",)),
        KeyLimits(subclouds=(SUBCLOUD, SUBCLOUD)),
        KeyLimits(default_subcloud="team"),
        KeyLimits(subclouds=(SUBCLOUD,), default_subcloud=OTHER),
        KeyLimits(subclouds=(SUBCLOUD,), default_subcloud=GLOBAL_POOL),
    ],
)
def test_the_ledger_takes_no_key_that_makes_no_sense(limits: KeyLimits) -> None:
    assert subclouds_problem(limits)
    bench = MemoryLedger(World())
    tenant = bench.world.tenant()
    bench.do(tenant.founding, bench.world.opening(tenant))
    with pytest.raises(ValueRefusedError):
        bench.do(bench.world.creation(tenant, limits=limits))


def test_a_bill_keeps_the_policy_that_the_receipt_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = a_policy()
    second = a_policy(2, digest_of(first), price={})
    receipt = ConsumerReceipt(
        *(bytes(16), AccountId("acct-" + "1" * 40), "dev", "k" * 16, bytes(32), bytes(32)),
        *(terms_in(CONFIGURATION, first), 1, 1, 1, "complete", bytes(32), 1),
    )
    shown: dict[str, dict[str, Any]] = {
        "/resultity/v1/network": {"configuration": "", "gateway_chain": ""},
        f"/resultity/v1/subclouds/{SUBCLOUD}/history": {
            "versions": [
                base64.b64encode(encode_message(a_record(policy))).decode()
                for policy in (second, first)
            ]
        },
    }
    monkeypatch.setattr(bills, "get_json", lambda url: shown[url.removeprefix("http://gateway")])
    text = base64.b64encode(encode_message(GATEWAY.sign(NETWORK, receipt))).decode()
    save_bill(tmp_path, "http://gateway/v1", b"{}", "yes", text)
    policy = bill_files(tmp_path).policy
    assert policy is not None
    assert policy.read_bytes() == encode_message(a_record(first))
    shown[f"/resultity/v1/subclouds/{SUBCLOUD}/history"]["versions"] = ["junk"]
    with pytest.raises(ReceiptError, match="does not show the policy"):
        save_bill(tmp_path, "http://gateway/v1", b"{}", "yes", text)
