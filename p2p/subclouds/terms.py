"""Owns which models a subcloud's jobs may name, and what they cost there. Pure.

Theory of operation. A job's price terms say under which policy it runs. Whoever gets them (ledger,
node, whoever checks a receipt) makes the same terms again from the configuration and the policy and
compares: nothing in them is negotiated. A model of the policy's own has the policy's prices; every
other one those of the network's configuration.
"""

from __future__ import annotations

from dataclasses import replace

from p2p.network_configuration import ApprovedModel, NetworkConfiguration, price_terms
from p2p.prices import PriceTerms
from p2p.subclouds.policy import SubcloudPolicy


def model_in_subcloud(
    configuration: NetworkConfiguration, policy: SubcloudPolicy | None, name: str
) -> ApprovedModel | None:
    """Find a model by the name that a request gives: the policy's own first, then the network's.

    `policy` None: the global pool.
    """
    own = policy.models.own if policy is not None else ()
    return next((model for model in own if model.name == name), configuration.model_named(name))


def model_of_digest(
    configuration: NetworkConfiguration, policy: SubcloudPolicy | None, digest: bytes
) -> ApprovedModel | None:
    """Find a model by its digest, as `model_in_subcloud` does by name."""
    own = policy.models.own if policy is not None else ()
    wanted = digest.hex()
    found = next((model for model in own if model.digest == wanted), None)
    return found or configuration.model_with_digest(digest)


def subcloud_terms(
    configuration: NetworkConfiguration,
    policy: SubcloudPolicy | None,
    digest: str,
    model: ApprovedModel,
) -> PriceTerms:
    """Give the price terms of a model for a job of a subcloud (its policy and that one's digest in
    hex), or of the global pool (None)."""
    terms = price_terms(configuration, model)
    if policy is None:
        return terms
    return replace(
        terms,
        subcloud_id=policy.subcloud_id,
        policy_digest=bytes.fromhex(digest),
        owner_fee_basis_points=policy.price.owner_fee_basis_points,
    )


def subcloud_terms_allowed(
    configuration: NetworkConfiguration,
    policy: SubcloudPolicy | None,
    digest: str,
    terms: PriceTerms,
) -> bool:
    """Tell whether terms are exactly what configuration and policy say for their model."""
    model = model_in_subcloud(configuration, policy, terms.model_name)
    return model is not None and subcloud_terms(configuration, policy, digest, model) == terms


def names_model(policy: SubcloudPolicy, model: ApprovedModel) -> bool:
    """Tell whether a policy may admit a model, as far as its name and digest say.

    Who sees the node knows more (family, quantisation, speed): `p2p.subclouds.evaluation`.
    """
    rules = policy.models
    if rules.verified_only and not model.verified:
        return False
    own = next((own for own in rules.own if own.digest == model.digest), None)
    if own is not None:  # under another name it would have another price
        return own is model
    if not rules.names_any:
        return not rules.own  # a policy with models of its own and no others named has only those
    return (
        bool(rules.families)
        or model.digest in rules.digests
        or any(
            entry.name == model.name and (not entry.versions or model.version in entry.versions)
            for entry in rules.names
        )
    )


def price_is_below_ceiling(policy: SubcloudPolicy, terms: PriceTerms) -> bool:
    """Tell whether a model costs no more than a policy allows."""
    limits = policy.price
    pairs = (
        (
            terms.input_microcredits_per_million_tokens,
            limits.input_microcredits_per_million_tokens_max,
        ),
        (
            terms.output_microcredits_per_million_tokens,
            limits.output_microcredits_per_million_tokens_max,
        ),
    )
    return all(most is None or price <= most for price, most in pairs)
