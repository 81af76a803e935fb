"""Owns the policy of a subcloud: one owner-signed, versioned document. Pure.

Theory of operation. What is signed is the canonical JSON of the document (sorted keys, no white
space, defaults written out), so that each policy has one digest however its YAML was laid out.
Each version names its predecessor's digest and is signed by a key of its owner's account. The
subcloud's ID commits to the account that founded it; from there a chain of handovers, each signed
by the account that gives, leads to the present owner, so that who comes late needs no old versions.
Unknown fields are refused: a peer that does not understand a rule must not act as if there were
none. Whose keys are an account's at a given time is not decided here.

Units are in the names; times are milliseconds since 1970; shares are basis points (1/10000).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import pydantic

from p2p.approved_models import unverified_digest
from p2p.codec import Limit, Range, message
from p2p.errors import ForkError, MalformedError, StaleError, UntrustedError, WrongNetworkError
from p2p.limits import NAME_CHARACTERS_MAX
from p2p.signing import Document, KeyPair, Signed, verify_bytes
from p2p.subclouds.identity import SubcloudId, label_of, parse_subcloud_id, subcloud_id
from p2p.subclouds.policy_rules import (
    CallerRules,
    Count,
    DataRules,
    GatewayRules,
    HardwareFloor,
    Hex32,
    ModelRules,
    PriceRules,
    RegionRules,
    ServiceLevel,
    StrictPart,
    Text,
    TrustFloor,
)
from p2p.types import AccountId, NetworkId, is_account_id

FORMAT = "resultity/subcloud-policy/1"
PURPOSE = "subcloud-policy"
POLICY_BYTES_MAX = 128 * 1024
HANDOVERS_MAX = 16
"""Each is carried with every policy that follows."""


@message(185)
@dataclass(frozen=True, slots=True)
class Handover(Document):
    """Gives a subcloud to another account. Signed by a key of the account that gives.

    `number` counts the handovers of this subcloud (1 is the founder's).
    """

    PURPOSE: ClassVar[str] = "subcloud-handover"
    subcloud_id: Annotated[SubcloudId, Limit(NAME_CHARACTERS_MAX)]
    number: Annotated[int, Range(1, HANDOVERS_MAX)]
    giver: Annotated[AccountId, Limit(NAME_CHARACTERS_MAX)]
    taker: Annotated[AccountId, Limit(NAME_CHARACTERS_MAX)]
    issued_ms: int


class Conflict(NamedTuple):
    """Rules that do not go together: the fields that they are in, the first to change; and why."""

    fields: tuple[str, ...]
    reason: str


class PolicyConflictsError(ValueError):
    """Fields that are right by themselves contradict each other."""

    def __init__(self, conflicts: tuple[Conflict, ...]) -> None:
        super().__init__("; ".join(conflict.reason for conflict in conflicts))
        self.conflicts = conflicts


class SubcloudPolicy(StrictPart):
    """One version of a subcloud's policy. Keys are lower-case hex.

    Attributes:
        owner: the account whose keys sign this version.
        join: `open` by the member's own signature; `semi-open`: a delegate approves a request;
            `private`: a delegate invites. Certificates are signed by `delegate_keys`.
        isolate: members leave the global pool, each by its own signed consent.
        fallback: where a job goes when no member qualifies: nowhere, or to the global pool.
        cooldown_s: how long a member that left or was removed stays out.
        running_jobs: what becomes of running jobs of a member that is removed.
        revocation_list_age_s_max: a gateway whose list is older refuses members with certificates.
        ended: the last version: from now on nothing runs here.
    """

    format: Literal["resultity/subcloud-policy/1"] = "resultity/subcloud-policy/1"
    network_id: str
    subcloud_id: str
    version: Annotated[int, pydantic.Field(ge=1, le=2**31)]
    predecessor_digest: Hex32 | None = None
    issued_ms: Count
    expires_ms: Count
    owner: str
    contact: Text = ""
    models: ModelRules = ModelRules()
    regions: RegionRules = RegionRules()
    hardware: HardwareFloor = HardwareFloor()
    trust: TrustFloor = TrustFloor()
    service: ServiceLevel = ServiceLevel()
    price: PriceRules = PriceRules()
    join: Literal["open", "semi-open", "private"] = "open"
    members_max: Annotated[int, pydantic.Field(ge=1, le=100_000)] = 10_000
    cooldown_s: Annotated[int, pydantic.Field(ge=0, le=90 * 86_400)] = 0
    callers: CallerRules = CallerRules()
    isolate: bool = False
    fallback: Literal["none", "global"] = "none"
    running_jobs: Literal["finish", "move"] = "finish"
    gateways: GatewayRules = GatewayRules()
    revocation_list_age_s_max: Annotated[int, pydantic.Field(ge=30, le=7 * 86_400)] = 3600
    data: DataRules = DataRules()
    delegate_keys: Annotated[tuple[Hex32, ...], pydantic.Field(max_length=16)] = ()
    ended: bool = False

    @pydantic.model_validator(mode="after")
    def _is_consistent(self) -> SubcloudPolicy:
        if not is_account_id(self.owner):
            raise ValueError(f"owner: {self.owner[:60]} is not an account's ID (acct-...)")
        try:
            parse_subcloud_id(self.subcloud_id)
        except MalformedError as error:
            raise ValueError(str(error)) from None
        conflicts = tuple(find_conflicts(self))
        if conflicts:
            raise PolicyConflictsError(conflicts)
        return self

    def admits_gateway(self, peer_id: str, account_id: str) -> bool:
        """Tell whether a certified gateway (its peer ID, the account it belongs to) may send."""
        rules = self.gateways
        if not rules.accounts and not rules.peers:
            return self.join != "private" or account_id == self.owner
        return peer_id in rules.peers or account_id in rules.accounts

    @property
    def identity(self) -> SubcloudId:
        """The subcloud's ID, checked."""
        return SubcloudId(self.subcloud_id)

    @property
    def delegate_public_keys(self) -> frozenset[bytes]:
        """The keys that sign memberships, revocations, attestations and tokens."""
        return frozenset(bytes.fromhex(key) for key in self.delegate_keys)


def find_conflicts(policy: SubcloudPolicy) -> Iterator[Conflict]:
    """Find the rules of a policy that contradict each other."""
    if (policy.version == 1) != (policy.predecessor_digest is None):
        reason = "version 1 has no predecessor, every other version names one"
        yield Conflict(("version", "predecessor_digest"), reason)
    if policy.expires_ms <= policy.issued_ms:
        yield Conflict(("expires_ms",), "expires: a policy ends after it begins")
    if policy.join != "open" and not policy.delegate_keys:
        reason = f"join: {policy.join} needs delegate_keys, which sign the certificates"
        yield Conflict(("join", "delegate_keys"), reason)
    if policy.callers.tokens and not policy.delegate_keys:
        reason = "callers.tokens needs delegate_keys, which sign the tokens"
        yield Conflict(("callers.tokens", "delegate_keys"), reason)
    if policy.join == "private" and policy.fallback == "global":
        reason = "fallback: a private subcloud's jobs never leave it"
        yield Conflict(("fallback", "join"), reason)
    network = NetworkId(policy.network_id)
    names: set[str] = set()
    for place, model in enumerate(policy.models.own):
        where = f"models.own.{place}"
        if model.name in names:
            yield Conflict((f"{where}.name",), f"models.own: {model.name[:60]} is listed twice")
        names.add(model.name)
        unverified = model.digest == unverified_digest(network, model.name).hex()
        if unverified and policy.models.verified_only:
            reason = f"models.own: {model.name[:60]} cannot be verified, and verified_only asks it"
            yield Conflict((f"{where}.digest", "models.verified_only"), reason)


def canonical_json(policy: SubcloudPolicy) -> bytes:
    """Give the bytes that are signed: the same for the same content."""
    content = policy.model_dump(mode="json")
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def policy_digest(signed: Signed) -> str:
    """SHA-256 of a policy as signed, in hex: what its successor names."""
    return hashlib.sha256(signed.body).hexdigest()


def sign_policy(key: KeyPair, policy: SubcloudPolicy) -> Signed:
    """Sign a policy with a key of the account that owns the subcloud.

    Raises: MalformedError if it is too large.
    """
    body = canonical_json(policy)
    check_policy_size(body)
    network = NetworkId(policy.network_id)
    return Signed(body, key.public_key, key.sign_bytes(network, PURPOSE, body))


def open_policy(signed: Signed, network: NetworkId) -> SubcloudPolicy:
    """Read a signed policy: form, canonical bytes, signature, network.

    Whether the signer was a key of the owner's account is for the caller to ask.
    Raises: MalformedError, UntrustedError (bad signature), WrongNetworkError.
    """
    check_policy_size(signed.body)
    verify_bytes(network, PURPOSE, signed.body, signed.signer, signed.signature)
    try:
        policy = SubcloudPolicy.model_validate_json(signed.body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise MalformedError(f"subcloud policy: {where}: {first['msg']}") from error
    if policy.network_id != network:
        raise WrongNetworkError(f"a policy of network {policy.network_id}")
    if canonical_json(policy) != signed.body:
        raise MalformedError("a policy that is not in its canonical form")
    return policy


def check_policy_size(body: bytes) -> None:
    """See that the canonical form of a policy is not too large. Raises: MalformedError."""
    if len(body) > POLICY_BYTES_MAX:
        raise MalformedError(f"a policy has at most {POLICY_BYTES_MAX} bytes")


def check_owner(policy: SubcloudPolicy, handovers: Sequence[Handover]) -> None:
    """Check that a chain of handovers (oldest first) leads from the founder to a policy's owner.

    Their signatures are checked by the caller, each against the account that gives.
    Raises: UntrustedError.
    """
    network, identity = NetworkId(policy.network_id), policy.identity
    owner = handovers[0].giver if handovers else AccountId(policy.owner)
    if subcloud_id(network, owner, label_of(identity)) != identity:
        raise UntrustedError("the subcloud's ID commits to another founder")
    for number, handover in enumerate(handovers, start=1):
        right = handover.subcloud_id == identity and handover.giver == owner
        if not right or handover.number != number:
            raise UntrustedError("a handover that does not follow from the one before it")
        owner = handover.taker
    if owner != policy.owner:
        raise UntrustedError("the policy's owner is not who the subcloud was handed to")


def check_successor(
    current: SubcloudPolicy, current_digest: str, proposed: SubcloudPolicy, digest: str
) -> bool:
    """Tell whether a policy may replace the one in force. Signatures are checked elsewhere.

    Returns: True if it may, False if it is the one in force.
    Raises: StaleError (older), ForkError (same version with other content, a gap, or a next version
        that names another predecessor), UntrustedError (another subcloud).
    """
    if digest == current_digest:
        return False
    if proposed.subcloud_id != current.subcloud_id or proposed.network_id != current.network_id:
        raise UntrustedError("a policy of another subcloud")
    if proposed.version < current.version:
        raise StaleError(f"policy {proposed.version} is older than {current.version}")
    if proposed.version == current.version:
        raise ForkError(f"two policies with version {current.version}")
    if current.ended:
        raise ForkError("the subcloud has ended: nothing follows its last version")
    if proposed.version == current.version + 1 and proposed.predecessor_digest != current_digest:
        raise ForkError(f"policy {proposed.version} names another predecessor")
    return True


def policy_schema() -> dict[str, Any]:
    """Give the JSON schema of a policy, as it is published."""
    schema = SubcloudPolicy.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = FORMAT
    return schema
