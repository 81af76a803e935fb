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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from p2p.codec import Limit, Range, message
from p2p.errors import ForkError, MalformedError, StaleError, UntrustedError, WrongNetworkError
from p2p.limits import NAME_CHARACTERS_MAX, PRICE_MICROCREDITS_MAX
from p2p.network_configuration import ApprovedModel
from p2p.signing import Document, KeyPair, Signed, verify_bytes
from p2p.subclouds.grades import HardwareGrade, RegionGrade, quantisation_bits
from p2p.subclouds.identity import SubcloudId, label_of, parse_subcloud_id, subcloud_id
from p2p.types import AccountId, NetworkId, is_account_id

FORMAT = "resultity/subcloud-policy/1"
PURPOSE = "subcloud-policy"
POLICY_BYTES_MAX = 128 * 1024
HANDOVERS_MAX = 16
"""Each is carried with every policy that follows."""

Hex32 = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Country = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Z]{2}$")]
"""ISO 3166-1 alpha-2."""
Text = Annotated[str, pydantic.StringConstraints(max_length=500)]
Name = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=100)]
Share = Annotated[int, pydantic.Field(ge=0, le=10_000)]
Price = Annotated[int, pydantic.Field(ge=0, le=PRICE_MICROCREDITS_MAX)]
Count = Annotated[int, pydantic.Field(ge=0, le=2**53)]


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


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=False)


class ModelName(_Frozen):
    """A model by its name in the network, any version or some."""

    name: Name
    versions: Annotated[tuple[Name, ...], pydantic.Field(max_length=64)] = ()


class ModelRules(_Frozen):
    """Which models members serve for this subcloud.

    A model is admitted if it is one of `own`, or if it is named by `digests`, `names` or `families`
    (all three empty: every model of the network) and meets the rest. `own` are models that this
    policy approves by itself, with its own prices, for jobs of this subcloud only.
    """

    digests: Annotated[tuple[Hex32, ...], pydantic.Field(max_length=256)] = ()
    names: Annotated[tuple[ModelName, ...], pydantic.Field(max_length=256)] = ()
    families: Annotated[tuple[Name, ...], pydantic.Field(max_length=64)] = ()
    minimum_quantisation: str | None = None
    modalities: Annotated[tuple[Name, ...], pydantic.Field(max_length=8)] = ()
    verified_only: bool = True
    own: Annotated[tuple[ApprovedModel, ...], pydantic.Field(max_length=64)] = ()

    @pydantic.field_validator("minimum_quantisation")
    @classmethod
    def _quantisation_is_known(cls, value: str | None) -> str | None:
        if value is not None and quantisation_bits(value) is None:
            raise ValueError(f"{value} is no quantisation that can be compared")
        return value

    @property
    def names_any(self) -> bool:
        """Whether some models are named; otherwise all of the network's count."""
        return bool(self.digests or self.names or self.families)


class RegionRules(_Frozen):
    """In which countries members are: any of `allow` (empty: all) and none of `deny`.

    Without either, nothing is asked about the region, and `evidence` means nothing.
    """

    allow: Annotated[tuple[Country, ...], pydantic.Field(max_length=250)] = ()
    deny: Annotated[tuple[Country, ...], pydantic.Field(max_length=250)] = ()
    evidence: Literal["declared", "consistent", "proven", "attested"] = "declared"

    @property
    def grade(self) -> RegionGrade:
        """The weakest evidence that counts."""
        return RegionGrade[self.evidence.upper()]

    @property
    def asks(self) -> bool:
        """Whether there is any rule."""
        return bool(self.allow or self.deny)


class GpuFloor(_Frozen):
    """The least GPU: a part of its name (`RTX`, `A100`; empty: any) and its memory."""

    kind: Annotated[str, pydantic.StringConstraints(max_length=100)] = ""
    memory_bytes_min: Count = 0


class HardwareFloor(_Frozen):
    """The least hardware. Tokens a second are of one stream of the model in question."""

    gpu: GpuFloor | None = None
    memory_bytes_min: Count = 0
    tokens_per_second_min: Annotated[float, pydantic.Field(ge=0, le=10**6)] = 0.0
    evidence: Literal["declared", "benchmarked", "attested"] = "declared"

    @property
    def grade(self) -> HardwareGrade:
        """The weakest evidence that counts."""
        return HardwareGrade[self.evidence.upper()]


class TrustFloor(_Frozen):
    """The least reputation, over at least so many receipted jobs from two or more gateways."""

    reputation_min: Share = 0
    jobs_min: Annotated[int, pydantic.Field(ge=0, le=10**6)] = 0


class ServiceLevel(_Frozen):
    """What members must keep up, measured over `window_s`; 0: not asked.

    A member is judged once `jobs_judged_min` of its jobs were observed in the window. One below the
    level is suspended and may return after `suspension_s`.
    """

    first_token_ms_max: Annotated[int, pydantic.Field(ge=0, le=600_000)] = 0
    tokens_per_second_min: Annotated[float, pydantic.Field(ge=0, le=10**6)] = 0.0
    uptime_min: Share = 0
    capacity_slots_min: Annotated[int, pydantic.Field(ge=0, le=100_000)] = 0
    window_s: Annotated[int, pydantic.Field(ge=60, le=30 * 86_400)] = 86_400
    jobs_judged_min: Annotated[int, pydantic.Field(ge=1, le=10**6)] = 20
    suspension_s: Annotated[int, pydantic.Field(ge=0, le=30 * 86_400)] = 3600


class PriceRules(_Frozen):
    """The most that a model may cost here (None: no ceiling), and the owner's share of charges."""

    input_microcredits_per_million_tokens_max: Price | None = None
    output_microcredits_per_million_tokens_max: Price | None = None
    owner_fee_basis_points: Annotated[int, pydantic.Field(ge=0, le=5000)] = 0


class CallerRules(_Frozen):
    """Who may send jobs here: `anyone`, or whoever one of the lists names.

    `namespaces` are `<account>/<namespace>`; `keys` are IDs of API keys; `tokens` admits holders of
    bearer tokens that a delegate signed; `source_networks` (CIDR) bound all of them.
    """

    anyone: bool = False
    accounts: Annotated[tuple[str, ...], pydantic.Field(max_length=1000)] = ()
    namespaces: Annotated[tuple[str, ...], pydantic.Field(max_length=1000)] = ()
    keys: Annotated[tuple[str, ...], pydantic.Field(max_length=1000)] = ()
    tokens: bool = False
    source_networks: Annotated[tuple[str, ...], pydantic.Field(max_length=100)] = ()

    @pydantic.field_validator("accounts")
    @classmethod
    def _are_accounts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for account in value:
            if not is_account_id(account):
                raise ValueError(f"{account[:60]} is not an account's ID (acct-...)")
        return value

    @pydantic.model_validator(mode="after")
    def _somebody_may_call(self) -> CallerRules:
        named = self.accounts or self.namespaces or self.keys or self.tokens
        if self.anyone and named:
            raise ValueError("`anyone` makes the other callers meaningless: give one or the other")
        return self


class DataRules(_Frozen):
    """What members promise about content."""

    no_content_storage: bool = False


class SubcloudPolicy(_Frozen):
    """One version of a subcloud's policy. Keys are lower-case hex.

    Attributes:
        owner: the account whose keys sign this version.
        join: `open` by the member's own signature; `semi-open`: a delegate approves a request;
            `private`: a delegate invites. Certificates are signed by `delegate_keys`.
        isolate: members leave the global pool, each by its own signed consent.
        fallback: where a job goes when no member qualifies: nowhere, or to the global pool.
        cooldown_s: how long a member that left or was removed stays out.
        running_jobs: what becomes of running jobs of a member that is removed.
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
        if (self.version == 1) != (self.predecessor_digest is None):
            raise ValueError("version 1 has no predecessor, every other version names one")
        if self.expires_ms <= self.issued_ms:
            raise ValueError("expires: a policy ends after it begins")
        if self.join != "open" and not self.delegate_keys:
            raise ValueError(f"join: {self.join} needs delegate_keys, which sign the certificates")
        if self.callers.tokens and not self.delegate_keys:
            raise ValueError("callers.tokens needs delegate_keys, which sign the tokens")
        if self.join == "private" and self.fallback == "global":
            raise ValueError("fallback: a private subcloud's jobs never leave it")
        own = [model.name for model in self.models.own]
        if len(set(own)) != len(own):
            raise ValueError("models.own: a name is listed twice")
        return self

    @property
    def identity(self) -> SubcloudId:
        """The subcloud's ID, checked."""
        return SubcloudId(self.subcloud_id)

    @property
    def delegate_public_keys(self) -> frozenset[bytes]:
        """The keys that sign memberships, revocations, attestations and tokens."""
        return frozenset(bytes.fromhex(key) for key in self.delegate_keys)


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
    _check_size(body)
    network = NetworkId(policy.network_id)
    return Signed(body, key.public_key, key.sign_bytes(network, PURPOSE, body))


def open_policy(signed: Signed, network: NetworkId) -> SubcloudPolicy:
    """Read a signed policy: form, canonical bytes, signature, network.

    Whether the signer was a key of the owner's account is for the caller to ask.
    Raises: MalformedError, UntrustedError (bad signature), WrongNetworkError.
    """
    _check_size(signed.body)
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


def _check_size(body: bytes) -> None:
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
