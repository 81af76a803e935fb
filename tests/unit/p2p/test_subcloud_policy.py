"""The policy document: one form, one digest; versions, owners, and what is refused."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest
from hypothesis import given

from p2p.errors import (
    ForkError,
    MalformedError,
    StaleError,
    UntrustedError,
    WrongNetworkError,
)
from p2p.signing import KeyPair, Signed
from p2p.subclouds.identity import label_of, parse_subcloud_id, subcloud_id
from p2p.subclouds.policy import (
    POLICY_BYTES_MAX,
    PURPOSE,
    Handover,
    SubcloudPolicy,
    canonical_json,
    check_owner,
    check_successor,
    open_policy,
    policy_digest,
    policy_schema,
    sign_policy,
)
from p2p.types import AccountId, NetworkId
from tests.fakes.subclouds import DELEGATE, NETWORK, OWNER, a_policy, policies

KEY = KeyPair(b"k" * 32)
OTHER = AccountId("acct-" + "2" * 40)
THIRD = AccountId("acct-" + "3" * 40)


@given(policies())
def test_a_policy_survives_signing_and_its_form_is_unique(policy: SubcloudPolicy) -> None:
    signed = sign_policy(KEY, policy)
    assert open_policy(signed, NETWORK) == policy
    again = SubcloudPolicy.model_validate_json(policy.model_dump_json(indent=3))
    assert canonical_json(again) == signed.body


def test_another_layout_of_the_same_content_is_refused() -> None:
    body = a_policy().model_dump_json(indent=1).encode()
    signed = Signed(body, KEY.public_key, KEY.sign_bytes(NETWORK, PURPOSE, body))
    with pytest.raises(MalformedError, match="canonical"):
        open_policy(signed, NETWORK)


def test_forged_foreign_and_oversized_policies_are_refused() -> None:
    signed = sign_policy(KEY, a_policy())
    with pytest.raises(UntrustedError):
        open_policy(Signed(signed.body, DELEGATE.public_key, signed.signature), NETWORK)
    other = NetworkId("other-" + "0" * 32)
    with pytest.raises(UntrustedError):  # the signature covers the network
        open_policy(signed, other)
    body = signed.body
    moved = Signed(body, KEY.public_key, KEY.sign_bytes(other, PURPOSE, body))
    with pytest.raises(WrongNetworkError):
        open_policy(moved, other)
    long = b" " * (POLICY_BYTES_MAX + 1)
    with pytest.raises(MalformedError, match="at most"):
        open_policy(Signed(long, KEY.public_key, KEY.sign_bytes(NETWORK, PURPOSE, long)), NETWORK)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"surprise": 1}, "surprise"),
        ({"models": {"name": "x"}}, "models.name"),
        ({"owner": "me"}, "account"),
        ({"version": 2}, "names one"),
        ({"expires_ms": 0}, "ends after"),
        ({"join": "private", "delegate_keys": ()}, "delegate_keys"),
        ({"callers": {"tokens": True}}, "delegate_keys"),
        ({"callers": {"anyone": True, "accounts": (OWNER,)}}, "meaningless"),
        ({"callers": {"accounts": ("x",)}}, "account"),
        ({"join": "private", "fallback": "global"}, "never leave"),
        ({"models": {"minimum_quantisation": "Q5"}}, "compared"),
        ({"regions": {"allow": ("Germany",)}}, "regions.allow"),
        ({"subcloud_id": "nothing"}, "ID"),
    ],
)
def test_what_is_wrong_is_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(pydantic.ValidationError) as caught:
        a_policy(**fields)
    errors = caught.value.errors()
    text = " ".join(".".join(map(str, error["loc"])) + " " + error["msg"] for error in errors)
    assert said in text


def test_versions_follow_each_other() -> None:
    first = a_policy()
    digest = policy_digest(sign_policy(KEY, first))
    second = a_policy(version=2, predecessor_digest=digest, isolate=True)
    second_digest = policy_digest(sign_policy(KEY, second))
    assert check_successor(first, digest, second, second_digest)
    assert not check_successor(first, digest, first, digest)
    with pytest.raises(StaleError):
        check_successor(second, second_digest, first, digest)
    with pytest.raises(ForkError):
        check_successor(second, second_digest, a_policy(version=2, predecessor_digest=digest), "x")
    with pytest.raises(ForkError):
        check_successor(first, digest, a_policy(version=2, predecessor_digest="0" * 64), "x")
    with pytest.raises(UntrustedError):
        check_successor(first, digest, a_policy("other"), "x")
    later = a_policy(version=9, predecessor_digest="0" * 64)
    assert check_successor(first, digest, later, "x")  # it was away for a while
    ended = a_policy(ended=True)
    with pytest.raises(ForkError, match="ended"):
        check_successor(ended, "e", second, second_digest)


def test_ownership_follows_the_handovers() -> None:
    policy = a_policy()
    identity = policy.identity
    check_owner(policy, ())
    taken = a_policy(owner=OTHER)
    with pytest.raises(UntrustedError, match="founder"):
        check_owner(taken, ())
    first = Handover(identity, 1, OWNER, OTHER, 0)
    check_owner(taken, (first,))
    with pytest.raises(UntrustedError, match="handed"):
        check_owner(policy, (first,))
    second = Handover(identity, 2, OTHER, THIRD, 0)
    check_owner(a_policy(owner=THIRD), (first, second))
    for wrong in (
        (second, first),
        (first, first),
        (first, Handover(identity, 3, OTHER, THIRD, 0)),
        (first, Handover(identity, 2, THIRD, THIRD, 0)),
        (first, Handover(a_policy("else").identity, 2, OTHER, THIRD, 0)),
    ):
        with pytest.raises(UntrustedError):
            check_owner(a_policy(owner=THIRD), wrong)


def test_the_id_commits_to_network_owner_and_label() -> None:
    identity = subcloud_id(NETWORK, OWNER, "eu-legal")
    assert label_of(identity) == "eu-legal"
    assert parse_subcloud_id(identity) == identity
    others = {
        subcloud_id(NETWORK, OTHER, "eu-legal"),
        subcloud_id(NETWORK, OWNER, "eu-legal-2"),
        subcloud_id(NetworkId("other-" + "0" * 32), OWNER, "eu-legal"),
    }
    assert identity not in others
    assert len(others) == 3
    for label in ("", "EU", "-x", "x-", "a" * 41, "a.b"):
        with pytest.raises(MalformedError):
            subcloud_id(NETWORK, OWNER, label)
    for text in ("eu-legal", "eu-legal-" + "g" * 32, "-" + "0" * 32):
        with pytest.raises(MalformedError):
            parse_subcloud_id(text)


def test_the_schema_names_every_field() -> None:
    schema = policy_schema()
    assert set(schema["properties"]) == set(SubcloudPolicy.model_fields)
    assert schema["additionalProperties"] is False
