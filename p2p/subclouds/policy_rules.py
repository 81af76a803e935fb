"""Owns the parts of a subcloud's policy: what it asks of models, nodes, callers, gateways. Pure.

Unknown fields are refused: a peer that does not understand a rule must not act as if there were
none. Units are in the names; shares are basis points (1/10000).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import pydantic

from p2p.api_keys import is_key_id
from p2p.approved_models import ApprovedModel
from p2p.errors import P2PError
from p2p.key_limits import is_network
from p2p.limits import PRICE_MICROCREDITS_MAX
from p2p.subclouds.grades import HardwareGrade, RegionGrade, quantisation_bits
from p2p.types import PeerId, is_account_id, is_namespace_name, public_key_of

Hex32 = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Country = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Z]{2}$")]
"""ISO 3166-1 alpha-2."""
Text = Annotated[str, pydantic.StringConstraints(max_length=500)]
Name = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=100)]
Share = Annotated[int, pydantic.Field(ge=0, le=10_000)]
Price = Annotated[int, pydantic.Field(ge=0, le=PRICE_MICROCREDITS_MAX)]
Count = Annotated[int, pydantic.Field(ge=0, le=2**53)]


class StrictPart(pydantic.BaseModel):
    """Base of everything in a policy."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=False)


def _checked(is_right: Callable[[str], bool], what: str) -> pydantic.AfterValidator:
    def check(value: str) -> str:
        if not is_right(value):
            raise ValueError(f"{value[:60]} is not {what}")
        return value

    return pydantic.AfterValidator(check)


def _is_namespace(text: str) -> bool:
    account, _, name = text.partition("/")
    return is_account_id(account) and is_namespace_name(name)


def _is_peer(text: str) -> bool:
    try:
        public_key_of(PeerId(text))
    except P2PError:
        return False
    return True


Account = Annotated[str, _checked(is_account_id, "an account's ID (acct-...)")]
Namespace = Annotated[str, _checked(_is_namespace, "a namespace (acct-.../name)")]
KeyId = Annotated[str, _checked(is_key_id, "the ID of an API key (16 characters, see `key list`)")]
SourceNetwork = Annotated[
    str, _checked(is_network, "a network like 192.0.2.0/24 (without host bits)")
]
Peer = Annotated[str, _checked(_is_peer, "a gateway's peer ID (12D3Koo...)")]


class ModelName(StrictPart):
    """A model by its name in the network, any version or some."""

    name: Name
    versions: Annotated[tuple[Name, ...], pydantic.Field(max_length=64)] = ()


class OwnModel(ApprovedModel):
    """A model that a policy approves by itself. Unknown fields are refused here too."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=False)


class ModelRules(StrictPart):
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
    own: Annotated[tuple[OwnModel, ...], pydantic.Field(max_length=64)] = ()

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


class RegionRules(StrictPart):
    """In which countries members are: any of `allow` (empty: all) and none of `deny`.

    Without either, nothing is asked about the region, and `evidence` means nothing.
    """

    allow: Annotated[tuple[Country, ...], pydantic.Field(max_length=250)] = ()
    deny: Annotated[tuple[Country, ...], pydantic.Field(max_length=250)] = ()
    evidence: Literal["declared", "consistent", "proven", "attested"] = "declared"

    @pydantic.model_validator(mode="after")
    def _are_disjoint(self) -> RegionRules:
        both = sorted(set(self.allow) & set(self.deny))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be both allowed and denied: remove one")
        return self

    @property
    def grade(self) -> RegionGrade:
        """The weakest evidence that counts."""
        return RegionGrade[self.evidence.upper()]

    @property
    def asks(self) -> bool:
        """Whether there is any rule."""
        return bool(self.allow or self.deny)


class GpuFloor(StrictPart):
    """The least GPU: a part of its name (`RTX`, `A100`; empty: any) and its memory."""

    kind: Annotated[str, pydantic.StringConstraints(max_length=100)] = ""
    memory_bytes_min: Count = 0


class HardwareFloor(StrictPart):
    """The least hardware. Tokens a second are of one stream of the model in question."""

    gpu: GpuFloor | None = None
    memory_bytes_min: Count = 0
    tokens_per_second_min: Annotated[float, pydantic.Field(ge=0, le=10**6)] = 0.0
    evidence: Literal["declared", "benchmarked", "attested"] = "declared"

    @property
    def grade(self) -> HardwareGrade:
        """The weakest evidence that counts."""
        return HardwareGrade[self.evidence.upper()]


class TrustFloor(StrictPart):
    """The least reputation, over at least so many receipted jobs from two or more gateways."""

    reputation_min: Share = 0
    jobs_min: Annotated[int, pydantic.Field(ge=0, le=10**6)] = 0


class ServiceLevel(StrictPart):
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


class PriceRules(StrictPart):
    """The most that a model may cost here (None: no ceiling), and the owner's share of charges."""

    input_microcredits_per_million_tokens_max: Price | None = None
    output_microcredits_per_million_tokens_max: Price | None = None
    owner_fee_basis_points: Annotated[int, pydantic.Field(ge=0, le=5000)] = 0


class CallerRules(StrictPart):
    """Who may send jobs here: `anyone`, or whoever one of the lists names.

    `namespaces` are `<account>/<namespace>`; `keys` are IDs of API keys; `tokens` admits holders of
    bearer tokens that a delegate signed; `source_networks` (CIDR) bound all of them.
    """

    anyone: bool = False
    accounts: Annotated[tuple[Account, ...], pydantic.Field(max_length=1000)] = ()
    namespaces: Annotated[tuple[Namespace, ...], pydantic.Field(max_length=1000)] = ()
    keys: Annotated[tuple[KeyId, ...], pydantic.Field(max_length=1000)] = ()
    tokens: bool = False
    source_networks: Annotated[tuple[SourceNetwork, ...], pydantic.Field(max_length=100)] = ()

    @pydantic.model_validator(mode="after")
    def _somebody_may_call(self) -> CallerRules:
        named = self.accounts or self.namespaces or self.keys or self.tokens
        if self.anyone and named:
            raise ValueError("`anyone` makes the other callers meaningless: give one or the other")
        return self


class GatewayRules(StrictPart):
    """Which gateways may send jobs here: any certified one, or those named by account or peer ID.

    With neither list, an open or semi-open subcloud takes any; a private one those of its owner's
    account: its prompts travel only between its gateways and its members.
    """

    accounts: Annotated[tuple[Account, ...], pydantic.Field(max_length=64)] = ()
    peers: Annotated[tuple[Peer, ...], pydantic.Field(max_length=256)] = ()


class DataRules(StrictPart):
    """What members promise about content."""

    no_content_storage: bool = False
