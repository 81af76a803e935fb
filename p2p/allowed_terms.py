"""Owns which price terms are good now: the configuration's, and those of subclouds' policies.

Theory of operation. Peers learn of a new configuration or policy within seconds of each other.
Until everybody has it, and while jobs that were offered under the old one still run, the old terms
count beside the new ones. Terms that name a subcloud count if its policy is known here in the
version that they name, nothing has closed the subcloud, and they are exactly what configuration and
policy say; each refusal names the rule, under a code of its own (docs/reference/errors.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from p2p.errors import RefusedError
from p2p.network_configuration import ApprovedModel, NetworkConfiguration, terms_allowed
from p2p.prices import FEES_BASIS_POINTS_MAX, PriceTerms
from p2p.subclouds.creation import subcloud_refusal
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.records import KnownPolicy
from p2p.subclouds.terms import (
    model_in_subcloud,
    names_model,
    price_is_below_ceiling,
    subcloud_terms,
)

TERMS_GRACE_MS = 60_000
RETRY_AFTER_S = 1.0


class Policies(Protocol):
    """The policies that are known here (`p2p.subclouds.policy_book.PolicyBook`)."""

    def get(self, identity: SubcloudId) -> KnownPolicy | None:
        """The newest policy of a subcloud."""
        ...

    def previous(self, identity: SubcloudId, now_ms: int) -> KnownPolicy | None:
        """The version before, while its grace lasts."""
        ...

    def revocations(self, identity: SubcloudId) -> RevocationList | None:
        """The newest revocation list of a subcloud."""
        ...


class AllowedJob(NamedTuple):
    """What terms are for: a model, and the policy of a subcloud (None: the global pool)."""

    model: ApprovedModel
    known: KnownPolicy | None


class AllowedTerms:
    """Tells which price terms are good now: those in force, or shortly their predecessors."""

    def __init__(
        self,
        configuration: Callable[[], NetworkConfiguration],
        policies: Policies | None = None,
    ) -> None:
        """Follow what `configuration` gives (it must give one already).

        Without `policies` no subcloud is known, and everybody's terms are refused.
        """
        self._configuration = configuration
        self.policies = policies
        self._current = configuration()
        self._previous: NetworkConfiguration | None = None
        self._previous_until_ms = 0

    def current(self, now_ms: int) -> NetworkConfiguration:
        """Give the configuration in force; a new one starts the grace of the old one."""
        found = self._configuration()
        if found.version != self._current.version:
            self._previous, self._current = self._current, found
            self._previous_until_ms = now_ms + TERMS_GRACE_MS
        return self._current

    def previous(self, now_ms: int) -> NetworkConfiguration | None:
        """Give the predecessor while its grace lasts."""
        self.current(now_ms)
        return self._previous if now_ms < self._previous_until_ms else None

    def model_for(self, terms: PriceTerms, now_ms: int) -> ApprovedModel:
        """Give the model that these terms are of. Raises: as `find`."""
        return self.find(terms, now_ms).model

    def find(self, terms: PriceTerms, now_ms: int) -> AllowedJob:
        """Give what terms are for, if they are good now.

        Raises: RefusedError `terms` if neither configuration nor policy says them, and for a
            subcloud `subcloud_unknown`, `subcloud_policy`, `subcloud_closed`, `subcloud_model`,
            `subcloud_price`.
        """
        if terms.subcloud_id:
            return self._find_in_subcloud(terms, now_ms)
        for configuration in (self.current(now_ms), self.previous(now_ms)):
            if configuration is None:
                continue
            model = configuration.model_named(terms.model_name)
            if model is not None and terms_allowed(configuration, terms):
                return AllowedJob(model, None)
        raise self._other_price(terms)

    def _find_in_subcloud(self, terms: PriceTerms, now_ms: int) -> AllowedJob:
        known = self._policy_of(terms, now_ms)
        policy = known.policy
        for configuration in (self.current(now_ms), self.previous(now_ms)):
            if configuration is None or configuration.version != terms.configuration_version:
                continue
            model = model_in_subcloud(configuration, policy, terms.model_name)
            if model is None or not names_model(policy, model):
                raise RefusedError(
                    "subcloud_model",
                    f"the subcloud {policy.subcloud_id} has no model {terms.model_name}",
                )
            if subcloud_terms(configuration, policy, known.digest, model) == terms:
                _check_price(configuration, policy, terms)
                return AllowedJob(model, known)
        raise self._other_price(terms)

    def _policy_of(self, terms: PriceTerms, now_ms: int) -> KnownPolicy:
        """Give the policy that terms name, if anything may run under it now."""
        identity = SubcloudId(terms.subcloud_id)
        newest = self.policies.get(identity) if self.policies is not None else None
        if newest is None or self.policies is None:
            raise RefusedError(
                "subcloud_unknown",
                f"the policy of the subcloud {terms.subcloud_id} is not known here (yet)",
                retry_after_s=RETRY_AFTER_S,
            )
        # What ends a subcloud counts at once; only a change of its rules has a grace.
        check_open(self.current(now_ms), newest.policy, now_ms)
        wanted = terms.policy_digest.hex()
        for known in (newest, self.policies.previous(identity, now_ms)):
            if known is not None and known.digest == wanted:
                return known
        raise RefusedError(
            "subcloud_policy",
            f"version {newest.policy.version} of the policy of {terms.subcloud_id} is in force "
            "here, the job names another one",
            retry_after_s=RETRY_AFTER_S,
        )

    def _other_price(self, terms: PriceTerms) -> RefusedError:
        where = f" in the subcloud {terms.subcloud_id}" if terms.subcloud_id else ""
        return RefusedError(
            "terms",
            f"the price of {terms.model_name}{where} is not what network configuration "
            f"{self._current.version} says",
            retry_after_s=RETRY_AFTER_S,
        )


def check_open(configuration: NetworkConfiguration, policy: SubcloudPolicy, now_ms: int) -> None:
    """Refuse a subcloud in which nothing runs. Raises: RefusedError `subcloud_closed`."""
    reason, name = subcloud_refusal(configuration.subclouds, policy.identity), policy.subcloud_id
    if not reason and policy.ended:
        reason = f"the subcloud {name} was ended by its owner"
    elif not reason and policy.expires_ms <= now_ms:
        reason = f"the policy of {name} is over: its owner has to sign a new one"
    if reason:
        raise RefusedError("subcloud_closed", reason)


def _check_price(
    configuration: NetworkConfiguration, policy: SubcloudPolicy, terms: PriceTerms
) -> None:
    """Refuse what is above the policy's ceiling, or leaves nothing to nodes. Raises: RefusedError.

    The terms are those of configuration and policy: this is about what the two say together.
    """
    if not price_is_below_ceiling(policy, terms):
        raise RefusedError(
            "subcloud_price",
            f"{terms.model_name} costs more than the policy of {policy.subcloud_id} allows",
        )
    fees = configuration.fee_rule.under(terms).total_basis_points
    if terms.owner_fee_basis_points and fees > FEES_BASIS_POINTS_MAX:
        raise RefusedError(
            "subcloud_price",
            f"all fees together would be {fees / 100:g} % in {policy.subcloud_id}, at most "
            f"{FEES_BASIS_POINTS_MAX // 100} % may be taken",
        )
