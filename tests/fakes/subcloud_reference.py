"""Owns the slow, obvious answer to "may this node run that job": by what is true in a simulation.

It shares no code with the rules that it judges. Policies count as the gateway that asks knows them
(nobody can follow what has not reached him); memberships count as the node stated them to that
gateway; everything else (who was certified, who was revoked, where a node is) is the truth.
"""

from __future__ import annotations

from p2p.codec import decode_message
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.memberships import (
    Membership,
    MembershipCertificate,
    MembershipStatement,
)
from p2p.subclouds.policy import SubcloudPolicy
from tests.fakes.subcloud_gateways import SimGateway
from tests.fakes.subcloud_nodes import SimNode
from tests.fakes.subcloud_owners import DIGESTS, NETWORK_MODELS, OWN_MODEL, Owner, Version

GRACE_MS = 60_000
UNDER_WAY_MS = 1_000
"""An offer was sent just before the gateway heard of the next version."""


def stated(gateway: SimGateway, node: SimNode) -> MembershipStatement | None:
    """What a gateway heard last of a node's memberships."""
    known = gateway.directory.memberships.get(node.plan.peer_id, gateway.clock_ms())
    return known.statement if known is not None else None


def why_not_global(gateway: SimGateway, node: SimNode, model: bytes, owners: list[Owner]) -> str:
    """Why a node may not run a job of the global pool at a gateway; empty if it may."""
    if model not in {bytes.fromhex(m.digest) for m in NETWORK_MODELS}:
        return "the network does not approve this model"
    statement = stated(gateway, node)
    now_ms = gateway.clock_ms()
    for membership in statement.memberships if statement is not None else ():
        if not membership.isolates:
            continue
        owner = next(o for o in owners if o.identity == membership.subcloud_id)
        version = _known_at(gateway, owner)
        if version is None:
            return "it left for a subcloud that the gateway does not know"
        policy = version.policy
        if policy.isolate and not policy.ended and policy.expires_ms > now_ms:
            return "it left the global pool"
    return ""


def why_not_here(
    gateway: SimGateway, node: SimNode, model: bytes, digest: str, owner: Owner
) -> str:
    """Why a node may not run a job of a subcloud under a version of its policy; empty if it may."""
    version = next((v for v in owner.versions if v.digest == digest), None)
    if version is None:
        return "the owner never published this policy"
    known = _known_at(gateway, owner)
    before = known is not None and version.policy.version == known.policy.version - 1
    under_way = before and gateway.learnt_ms[owner.identity] + UNDER_WAY_MS > gateway.clock_ms()
    if version is not known and not under_way:
        return "the gateway knows another version"
    policy, now_ms = version.policy, gateway.clock_ms()
    if policy.ended or policy.expires_ms <= now_ms:
        return "the policy is over"
    if policy.gateways.peers and gateway.peer_id not in policy.gateways.peers:
        return "the policy names other gateways"
    if not _admits(policy, model):
        return "the policy does not admit this model"
    statement = stated(gateway, node)
    if statement is None:
        return "it never said that it is a member"
    membership = next((m for m in statement.memberships if m.subcloud_id == owner.identity), None)
    if membership is None:
        return "it is no member"
    return (
        _membership_trouble(gateway, node, membership, owner, version)
        or ("no consent to be isolated" if policy.isolate and not membership.isolates else "")
        or _region_trouble(node, policy, statement.country, owner)
        or (
            "no promise about content"
            if policy.data.no_content_storage and not statement.stores_no_content
            else ""
        )
    )


def _known_at(gateway: SimGateway, owner: Owner) -> Version | None:
    known = gateway.book.get(owner.identity)
    return next((v for v in owner.versions if known and v.digest == known.digest), None)


def _admits(policy: SubcloudPolicy, model: bytes) -> bool:
    ceiling = policy.price.input_microcredits_per_million_tokens_max
    number = DIGESTS.index(model)
    if number == 3:
        price = OWN_MODEL.input_microcredits_per_million_tokens
        named = any(own.name == "tuned" for own in policy.models.own)
    else:
        price = NETWORK_MODELS[number].input_microcredits_per_million_tokens
        names = {entry.name for entry in policy.models.names}
        only_own = not names and policy.models.own
        named = f"model-{number}" in names if names else not only_own
    return bool(named) and (ceiling is None or price <= ceiling)


def _membership_trouble(
    gateway: SimGateway, node: SimNode, membership: Membership, owner: Owner, version: Version
) -> str:
    now_ms, peer_id = gateway.clock_ms(), node.plan.peer_id
    revocations = gateway.book.revocations(SubcloudId(owner.identity))
    banned = revocations is not None and peer_id in revocations.banned_peers
    if banned:
        return "it was banned"
    if version.policy.join == "open":
        known = _known_at(gateway, owner)
        assert known is not None
        agreed = membership.policy_digest.hex()
        grace = gateway.learnt_ms[owner.identity] + GRACE_MS > now_ms
        before = gateway.replaced.get(SubcloudId(owner.identity))
        good = agreed == known.digest or (grace and agreed == before)
        return "" if good else "it agreed to another version"
    genuine = owner.certificates.get(peer_id, [])
    if membership.certificate not in genuine:
        return "the delegate never certified it"
    assert membership.certificate is not None
    certificate = decode_message(membership.certificate.body, MembershipCertificate)
    if certificate.expires_ms <= now_ms:
        return "its certificate has expired"
    if revocations is None:
        return "no revocation list"
    if revocations.issued_ms + version.policy.revocation_list_age_s_max * 1000 <= now_ms:
        return "the revocation list is too old"
    return ""


def _region_trouble(node: SimNode, policy: SubcloudPolicy, declared: str, owner: Owner) -> str:
    rules = policy.regions
    if not rules.allow and not rules.deny:
        return ""
    truth = node.plan.country
    attested = owner.attested.get(node.plan.peer_id)
    countries = {attested[0]} if attested else set()
    if rules.evidence == "declared" and declared:
        # A word that the GeoIP file contradicts: both countries count then.
        countries |= {declared, truth}
    elif rules.evidence == "consistent" and declared == truth:
        countries.add(truth)
    if not countries:
        return "nothing shows where it is"
    if countries & set(rules.deny):
        return "it is in a country that the policy denies"
    if rules.allow and not countries <= set(rules.allow):
        return "it is in no country that the policy allows"
    return ""
