"""Owns the owners of a simulation's subclouds: accounts, delegates, policies that change."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from p2p.account_file import AccountKeys
from p2p.account_proof import AccountProof
from p2p.approved_models import ApprovedModel
from p2p.ledger_messages import AccountFounding
from p2p.signing import KeyPair, Signed
from p2p.subclouds.evidence_messages import Attestation
from p2p.subclouds.identity import SubcloudId, subcloud_id
from p2p.subclouds.memberships import MembershipCertificate, RevocationList
from p2p.subclouds.policy import SubcloudPolicy, policy_digest, sign_policy
from p2p.subclouds.records import PolicyRecord
from p2p.types import PeerId
from tests.fakes import trust
from tests.fakes.clocks import START_MS

COUNTRIES = ("DE", "FR", "US")
DIGESTS = tuple(bytes([number]) * 32 for number in (21, 22, 23, 24))
"""The first three are models of the network, the last one only policies approve."""
NETWORK_MODELS = tuple(
    trust.MODEL.model_copy(update={"name": f"model-{number}", "digest": digest.hex()})
    for number, digest in enumerate(DIGESTS[:3])
)
OWN_MODEL: ApprovedModel = trust.MODEL.model_copy(
    update={
        "name": "tuned",
        "digest": DIGESTS[3].hex(),
        "input_microcredits_per_million_tokens": 7_000_000,
    }
)
HOUR_MS = 3_600_000


def _key(seed: int, kind: str, number: int) -> KeyPair:
    return KeyPair(random.Random(f"{kind}/{seed}/{number}").randbytes(32))


@dataclass(frozen=True, slots=True)
class Version:
    """A policy as it was published."""

    policy: SubcloudPolicy
    digest: str
    record: PolicyRecord


@dataclass
class Owner:
    """One subcloud's owner with its delegate; everything that they sign goes through here.

    Attributes:
        certificates: what the delegate really issued, by node. attested: countries, by node.
    """

    seed: int
    number: int
    chance: random.Random
    versions: list[Version] = field(default_factory=list)
    certificates: dict[PeerId, list[Signed]] = field(default_factory=dict)
    attested: dict[PeerId, tuple[str, Signed]] = field(default_factory=dict)
    banned: set[PeerId] = field(default_factory=set)
    lists: int = 0

    def __post_init__(self) -> None:
        """Found an account."""
        pair = _key(self.seed, "owner", self.number)
        founding = AccountFounding(
            pair.public_key,
            _key(self.seed, "recovery", self.number).public_key,
            START_MS,
            bytes(16),
        )
        self.account = AccountKeys(pair, pair.sign(trust.NETWORK, founding))
        self.delegate = _key(self.seed, "delegate", self.number)
        self.label = f"cloud-{self.number}"
        self.identity: SubcloudId = subcloud_id(trust.NETWORK, self.account.account_id, self.label)

    @property
    def newest(self) -> Version:
        """The version that the owner published last."""
        return self.versions[-1]

    def publish(self, now_ms: int, **fields: Any) -> Version:
        """Sign the next version: the last one's content with these fields changed."""
        before = self.versions[-1] if self.versions else None
        content: dict[str, Any] = before.policy.model_dump() if before is not None else {}
        content |= {
            "network_id": trust.NETWORK,
            "subcloud_id": self.identity,
            "version": len(self.versions) + 1,
            "predecessor_digest": before.digest if before is not None else None,
            "issued_ms": now_ms,
            "expires_ms": now_ms + HOUR_MS,
            "owner": self.account.account_id,
            "delegate_keys": (self.delegate.public_key.hex(),),
            **fields,
        }
        policy = SubcloudPolicy.model_validate(content)
        signed = sign_policy(self.account.signing, policy)
        record = PolicyRecord(signed, (), (AccountProof(self.account.founding),))
        version = Version(policy, policy_digest(signed), record)
        self.versions.append(version)
        return version

    def forked(self, now_ms: int) -> PolicyRecord:
        """Sign another policy with the number of the newest one."""
        newest = self.newest.policy
        policy = newest.model_copy(update={"contact": "fork", "issued_ms": now_ms})
        signed = sign_policy(self.account.signing, policy)
        return PolicyRecord(signed, (), (AccountProof(self.account.founding),))

    def certify(self, peer_id: PeerId, now_ms: int) -> Signed:
        """The delegate admits a node for ten minutes."""
        document = MembershipCertificate(
            self.chance.randbytes(16), self.identity, peer_id, now_ms, now_ms + 600_000
        )
        signed = self.delegate.sign(trust.NETWORK, document)
        self.certificates.setdefault(peer_id, []).append(signed)
        return signed

    def attest(self, peer_id: PeerId, country: str, now_ms: int) -> Signed:
        """The delegate says where a node is."""
        document = Attestation(
            self.chance.randbytes(16), self.identity, peer_id, now_ms, now_ms + HOUR_MS, country
        )
        signed = self.delegate.sign(trust.NETWORK, document)
        self.attested[peer_id] = (country, signed)
        return signed

    def revocation_list(self, now_ms: int) -> Signed:
        """The delegate's next list."""
        self.lists += 1
        document = RevocationList(
            self.identity, self.lists, now_ms, banned_peers=tuple(sorted(self.banned))
        )
        return self.delegate.sign(trust.NETWORK, document)


def random_fields(chance: random.Random, gateways: tuple[PeerId, ...]) -> dict[str, Any]:
    """Draw what a policy asks for."""
    join = chance.choice(("open", "open", "semi-open", "private"))
    models: dict[str, Any] = chance.choice(
        (
            {},
            {"names": [{"name": "model-0"}, {"name": "model-1"}]},
            {"own": [OWN_MODEL.model_dump()]},
            {"names": [{"name": "model-2"}], "own": [OWN_MODEL.model_dump()]},
        )
    )
    regions: dict[str, Any] = chance.choice(
        (
            {},
            {"allow": ["DE", "FR"], "evidence": "declared"},
            {"allow": ["DE"], "evidence": "consistent"},
            {"deny": ["US"], "evidence": "consistent"},
            {"allow": ["DE", "FR"], "evidence": "attested"},
        )
    )
    listed = join == "private" or chance.random() < 0.2
    return {
        "join": join,
        "models": models,
        "regions": regions,
        "isolate": chance.random() < 0.3,
        "fallback": "global" if join != "private" and chance.random() < 0.3 else "none",
        "callers": {"anyone": True},
        "data": {"no_content_storage": chance.random() < 0.3},
        "gateways": {"peers": chance.sample(gateways, 1) if listed else []},
        "cooldown_s": chance.choice((0, 0, 20)),
        "revocation_list_age_s_max": chance.choice((60, 3600)),
        "price": chance.choice(({}, {}, {"input_microcredits_per_million_tokens_max": 6_000_000})),
    }
