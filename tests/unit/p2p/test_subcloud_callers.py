"""Who may call, and which terms of a subcloud are good: against slow, obvious references."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.allowed_terms import TERMS_GRACE_MS, AllowedTerms
from p2p.errors import RefusedError
from p2p.network_configuration import Fees
from p2p.prices import PriceTerms
from p2p.subcloud_rules import SubcloudRules
from p2p.subclouds.callers import check_caller
from p2p.subclouds.policy import SubcloudPolicy
from tests.fakes.ledger_desk import CONFIGURATION, TERMS
from tests.fakes.ledger_world import START_MS
from tests.fakes.subcloud_ledger import (
    SUBCLOUD,
    YEAR_MS,
    Policies,
    a_policy,
    digest_of,
    open_one,
    terms_in,
)

ACCOUNTS = tuple(f"acct-{digit * 40}" for digit in "ab")
NETWORKS = ("10.0.0.0/8", "192.168.0.0/16")
OWN = {
    "name": "ours",
    "digest": "ab" * 32,
    "context_tokens": 512,
    "input_microcredits_per_million_tokens": 7,
    "output_microcredits_per_million_tokens": 9,
}

callers = st.one_of(
    st.just({"anyone": True}),
    st.fixed_dictionaries(
        {
            "accounts": st.sets(st.sampled_from(ACCOUNTS)).map(tuple),
            "namespaces": st.sets(st.sampled_from([f"{a}/dev" for a in ACCOUNTS])).map(tuple),
            "keys": st.sets(st.sampled_from(["a" * 16, "b" * 16])).map(tuple),
            "tokens": st.booleans(),
        }
    ),
)


@given(
    callers,
    st.sets(st.sampled_from(NETWORKS)).map(tuple),
    st.sampled_from(ACCOUNTS),
    st.sampled_from(["dev", "prod"]),
    st.sampled_from(["a" * 16, "b" * 16]),
    st.none()
    | st.builds(open_one, account=st.sampled_from(["", *ACCOUNTS]), namespace=st.just("")),
    st.sampled_from(["", *NETWORKS]),
)
def test_callers_against_a_reference(
    rules: dict[str, Any],
    networks: tuple[str, ...],
    account: str,
    namespace: str,
    key: str,
    token: Any,
    network: str,
) -> None:
    policy = a_policy(callers={**rules, "source_networks": networks})
    allowed = bool(
        rules.get("anyone")
        or account in rules.get("accounts", ())
        or f"{account}/{namespace}" in rules.get("namespaces", ())
        or key in rules.get("keys", ())
        or (rules.get("tokens") and token is not None and token.account in ("", account))
    )
    allowed = allowed and (not networks or network in networks)
    reason = check_caller(policy, account, namespace, key, token, network)  # type: ignore[arg-type]
    assert (reason is None) == allowed
    assert reason is None or not {account, key} & set(reason.split())


def test_a_token_of_another_subcloud_opens_nothing() -> None:
    policy = a_policy(callers={"tokens": True})
    token = replace(open_one(), subcloud_id="other-" + "0" * 32)  # type: ignore[arg-type]
    assert check_caller(policy, ACCOUNTS[0], "dev", "k", token) is not None  # type: ignore[arg-type]
    assert check_caller(policy, ACCOUNTS[0], "dev", "k", open_one()) is None  # type: ignore[arg-type]


# --- terms ----------------------------------------------------------------------------------------
def code_of(allowed: AllowedTerms, terms: PriceTerms, now_ms: int = START_MS) -> str:
    try:
        allowed.find(terms, now_ms)
    except RefusedError as error:
        return error.code
    return ""


def check(policy: SubcloudPolicy, terms: PriceTerms | None = None, **fields: Any) -> str:
    configuration = CONFIGURATION.model_copy(update=fields)
    allowed = AllowedTerms(lambda: configuration, Policies(policy))
    return code_of(allowed, terms or terms_in(configuration, policy))


def test_the_terms_of_a_policy_in_force_are_good() -> None:
    policy = a_policy()
    allowed = AllowedTerms(lambda: CONFIGURATION, Policies(policy))
    found = allowed.find(terms_in(CONFIGURATION, policy), START_MS)
    assert found.model.name == "tiny-chat"
    assert found.known is not None
    assert found.known.policy == policy
    assert allowed.find(TERMS, START_MS).known is None
    assert code_of(allowed, terms_in(CONFIGURATION, policy), START_MS + YEAR_MS) == (
        "subcloud_closed"
    )


def test_what_makes_terms_wrong() -> None:
    policy = a_policy()
    good = terms_in(CONFIGURATION, policy)
    assert check(policy, good) == ""
    for change in (
        {"owner_fee_basis_points": 0},
        {"input_microcredits_per_million_tokens": 1},
        {"output_microcredits_per_million_tokens": 1},
        {"configuration_version": 2},
    ):
        assert check(policy, replace(good, **change)) == "terms"  # type: ignore[arg-type]
    assert check(policy, replace(good, policy_digest=bytes(32))) == "subcloud_policy"
    assert check(policy, replace(good, model_name="nothing")) == "subcloud_model"
    other = replace(good, subcloud_id="other-" + "0" * 32)
    assert check(policy, other) == "subcloud_unknown"
    assert code_of(AllowedTerms(lambda: CONFIGURATION), good) == "subcloud_unknown"


def test_what_closes_a_subcloud() -> None:
    assert check(a_policy(ended=True)) == "subcloud_closed"
    assert check(a_policy(), subclouds=SubcloudRules(banned=(SUBCLOUD,))) == "subcloud_closed"
    assert check(a_policy(), subclouds=SubcloudRules(creation="approval")) == ""


def test_ceilings_and_fees() -> None:
    dear = {"owner_fee_basis_points": 0, "input_microcredits_per_million_tokens_max": 1_999_999}
    assert check(a_policy(price=dear)) == "subcloud_price"
    dear = {"output_microcredits_per_million_tokens_max": 4_999_999}
    assert check(a_policy(price=dear)) == "subcloud_price"
    enough = {"output_microcredits_per_million_tokens_max": 5_000_000}
    assert check(a_policy(price=enough)) == ""
    greedy = a_policy(price={"owner_fee_basis_points": 5_000})
    assert check(greedy) == ""
    high = Fees(gateway_basis_points=3_000, network_basis_points=1_001)
    assert check(greedy, fees=high) == "subcloud_price"
    assert check(greedy, fees=Fees(gateway_basis_points=3_000, network_basis_points=1_000)) == ""


def test_models_by_name_digest_and_the_policys_own() -> None:
    assert check(a_policy(models={"names": ({"name": "tiny-chat"},)})) == ""
    assert check(a_policy(models={"digests": (CONFIGURATION.models[0].digest,)})) == ""
    assert check(a_policy(models={"families": ("llama",)})) == ""  # who sees the node knows more
    versions = {"names": ({"name": "tiny-chat", "versions": ("9",)},)}
    assert check(a_policy(models=versions)) == "subcloud_model"
    assert check(a_policy(models={"names": ({"name": "big"},)})) == "subcloud_model"
    own = a_policy(models={"own": (OWN,)})
    assert check(own) == "subcloud_model"  # only its own, then
    ours = terms_in(CONFIGURATION, own, "ours")
    assert (ours.input_microcredits_per_million_tokens, ours.owner_fee_basis_points) == (7, 1_500)
    assert check(own, ours) == ""
    capped = a_policy(
        models={"own": (OWN,)}, price={"output_microcredits_per_million_tokens_max": 8}
    )
    assert check(capped, terms_in(CONFIGURATION, capped, "ours")) == "subcloud_price"


def test_predecessors_have_a_grace() -> None:
    first = a_policy()
    second = a_policy(2, digest_of(first), price={"owner_fee_basis_points": 0})
    current, policies = [CONFIGURATION], Policies(first)
    allowed = AllowedTerms(lambda: current[0], policies)
    old, new = terms_in(CONFIGURATION, first), terms_in(CONFIGURATION, second)
    assert (code_of(allowed, old), code_of(allowed, new)) == ("", "subcloud_policy")
    policies.change(second)
    assert (code_of(allowed, old), code_of(allowed, new)) == ("", "")
    policies.before = None
    assert code_of(allowed, old) == "subcloud_policy"
    current[0] = CONFIGURATION.model_copy(update={"version": 2})
    assert code_of(allowed, new) == ""
    assert code_of(allowed, new, START_MS + TERMS_GRACE_MS) == "terms"
    assert code_of(allowed, terms_in(current[0], second), START_MS + TERMS_GRACE_MS) == ""


def test_an_end_counts_at_once() -> None:
    policies = Policies(first := a_policy())
    allowed = AllowedTerms(lambda: CONFIGURATION, policies)
    policies.change(a_policy(2, digest_of(first), ended=True))
    assert code_of(allowed, terms_in(CONFIGURATION, first)) == "subcloud_closed"


@pytest.mark.parametrize("name", ["tiny-chat", "ours"])
def test_the_same_terms_are_made_everywhere(name: str) -> None:
    policy = a_policy(models={"own": (OWN,), "names": ({"name": "tiny-chat"},)})
    assert check(policy, terms_in(CONFIGURATION, policy, name)) == ""
