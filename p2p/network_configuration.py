"""Owns the network configuration: the authority's signed, versioned word on what is allowed. Pure.

Theory of operation. The configuration is a JSON document, signed as it stands (`Signed.body` is the
JSON). Each version names the SHA-256 of its predecessor's JSON; a rollback is a new version with
older content. Whoever serves it is not trusted: a peer accepts a configuration only if the key that
signed it is the one that the network's ID commits to, and only if it is newer than what the peer
has. Two documents with one version are a fork: both are kept as evidence and neither replaces what
is in force.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import pydantic

from p2p.approved_models import (
    UNVERIFIED_MODELS_MAX,
    ApprovedModel,
    Frozen,
    Hex32,
    UnverifiedModel,
    with_digest,
)
from p2p.errors import ForkError, MalformedError, StaleError, UntrustedError, WrongNetworkError
from p2p.limits import AMOUNT_MICROCREDITS_MAX
from p2p.prices import FeeRule, PriceTerms
from p2p.signing import KeyPair, Signed, verify_bytes
from p2p.subcloud_rules import Landmark, SubcloudRules
from p2p.types import NetworkId, PeerId, authority_matches

__all__ = [
    "ApprovedModel",
    "Fees",
    "Limits",
    "NetworkConfiguration",
    "Participation",
    "Rcp",
    "UnverifiedModel",
    "Witness",
    "check_successor",
    "configuration_digest",
    "open_configuration",
    "price_terms",
    "sign_configuration",
    "terms_allowed",
]

PURPOSE = "network-configuration"
CONFIGURATION_BYTES_MAX = 256 * 1024
HOLD_BEYOND_DEADLINE_S_MIN = 60
"""Time to settle after a job's last moment, over a bootstrap that is restarting."""

Hex16 = Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{32}$")]
BasisPoints = Annotated[int, pydantic.Field(ge=0, le=5000)]
Share = Annotated[int, pydantic.Field(ge=0, le=10_000)]


class Fees(Frozen):
    """Shares of each charge, in 1/10000."""

    gateway_basis_points: BasisPoints = 500
    network_basis_points: BasisPoints = 500


class Participation(Frozen):
    """Who may join and open accounts.

    `nodes`: anybody may run one (`open`), or a node that is new needs an `invite`. `accounts`:
    `open` to everybody at the two rates an hour (`..._per_network_max`: for the clients of one /24
    or /48), or by `invite`. Invites are signed by the authority or one of `invite_keys`; one whose
    ID is in `revoked_invites` lets nothing more in.
    """

    nodes: Literal["open", "invite"] = "open"
    accounts: Literal["open", "invite"] = "open"
    node_certificate_lifetime_s: Annotated[int, pydantic.Field(ge=60)] = 30 * 86_400
    accounts_opened_per_hour_max: Annotated[int, pydantic.Field(ge=1)] = 600
    accounts_opened_per_hour_per_network_max: Annotated[int, pydantic.Field(ge=1)] = 60
    invite_keys: tuple[Hex32, ...] = ()
    revoked_invites: tuple[Hex16, ...] = ()
    referral_within_s: Annotated[int, pydantic.Field(ge=0, le=10 * 365 * 86_400)] = 30 * 86_400

    @property
    def invite_public_keys(self) -> frozenset[bytes]:
        """The keys that may sign invites beside the authority's."""
        return frozenset(bytes.fromhex(key) for key in self.invite_keys)

    @property
    def revoked_invite_ids(self) -> frozenset[bytes]:
        """The invites that let nothing more in."""
        return frozenset(bytes.fromhex(invite_id) for invite_id in self.revoked_invites)


class Limits(Frozen):
    """Bounds on money and jobs.

    `grant_microcredits_per_mint_key_and_day_max`: all grants that one mint key makes on one UTC
    day. `earnings_mature_after_s`: until then a correction may take earnings back.
    `dispute_window_s`: how long after a charge it can be disputed (at most until it matures).
    `lease_usable_s`: how long a lease takes new jobs (0: the network has no leases); it lives
    `hold_lifetime_s_max` longer, so that those jobs can be settled. A gateway that is cut off can
    use a revoked key for as long. `lease_microcredits_max`: the most that one lease sets aside.
    `gateway_exposure_microcredits_max`: the most that one gateway may hold (in open holds and
    leases) and charge on one UTC day together.
    """

    hold_lifetime_s_max: Annotated[int, pydantic.Field(ge=10, le=86_400)] = 900
    job_deadline_s_max: Annotated[int, pydantic.Field(ge=5, le=86_400)] = 600
    grant_microcredits_per_mint_key_and_day_max: Annotated[
        int,
        pydantic.Field(
            ge=0,
            le=AMOUNT_MICROCREDITS_MAX,
            # Configurations that were signed with the old name stay in force.
            validation_alias=pydantic.AliasChoices(
                "grant_microcredits_per_mint_key_and_day_max", "grant_microcredits_max"
            ),
        ),
    ] = 10**12
    earnings_mature_after_s: Annotated[int, pydantic.Field(ge=0, le=365 * 86_400)] = 7 * 86_400
    dispute_window_s: Annotated[int, pydantic.Field(ge=0, le=365 * 86_400)] = 3 * 86_400
    lease_usable_s: Annotated[int, pydantic.Field(ge=0, le=86_400)] = 300
    lease_microcredits_max: Annotated[int, pydantic.Field(ge=0, le=AMOUNT_MICROCREDITS_MAX)] = (
        10 * 10**6
    )

    gateway_exposure_microcredits_max: Annotated[
        int, pydantic.Field(ge=0, le=AMOUNT_MICROCREDITS_MAX)
    ] = 10**12

    @pydantic.model_validator(mode="after")
    def _holds_outlive_jobs(self) -> Limits:
        # Otherwise a job could finish after its hold: delivered, and paid by nobody.
        if self.hold_lifetime_s_max < self.job_deadline_s_max + HOLD_BEYOND_DEADLINE_S_MIN:
            raise ValueError(
                f"hold_lifetime_s_max must be at least {HOLD_BEYOND_DEADLINE_S_MIN} s more than "
                "job_deadline_s_max: a hold must outlive its job"
            )
        return self


class Rcp(Frozen):
    """How contribution points are given (`ledger/rcp.py`): an epoch's length, its pool of points,
    the shares of the kinds in 1/10000, how much of one payer's money at one node counts, and how
    much of the fees that one referred account pays in an epoch."""

    epoch_days: Annotated[int, pydantic.Field(ge=1, le=366)] = 1
    points_per_epoch: Annotated[int, pydantic.Field(ge=0, le=10**12)] = 10**6
    work_basis_points: Share = 7000
    uptime_basis_points: Share = 3000
    validation_basis_points: Share = 0
    referral_basis_points: Share = 0
    pair_cap_microcredits: Annotated[int, pydantic.Field(ge=0, le=AMOUNT_MICROCREDITS_MAX)] = 10**9
    referral_cap_microcredits: Annotated[int, pydantic.Field(ge=0, le=AMOUNT_MICROCREDITS_MAX)] = (
        10**8
    )

    @pydantic.model_validator(mode="after")
    def _shares_are_of_one_pool(self) -> Rcp:
        shares = self.work_basis_points + self.uptime_basis_points
        if shares + self.validation_basis_points + self.referral_basis_points > 10_000:
            raise ValueError("the shares of the contribution points are more than all of them")
        return self


class Witness(Frozen):
    """Who cosigns checkpoints of the log: the name in its signature lines, and its public key."""

    name: Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")]
    public_key: Hex32


class NetworkConfiguration(Frozen):
    """One version of the configuration. Keys are lower-case hex.

    `models` are files that nodes may serve; `unverified_models` are names under which they may
    offer other servers, to requests that accept that (`p2p.approved_models`).

    `mint_keys` sign new grants. A key that is no longer used moves to `retired_mint_keys`: what it
    granted stays good. A key in neither list makes all that it ever granted worthless.
    `dispute_keys` decide disputes (none: there are no disputes here), and move to
    `retired_dispute_keys` in the same way.

    `log_keys`: the keys that sign, or ever signed, checkpoints of the log; if none is named, any
    that a certified bootstrap names counts. `mirror_peers`: the bootstraps that get the ledger's
    records. `witness_quorum`: how many of `witnesses` must have cosigned what a user believes.
    """

    format: Literal["resultity/network-configuration/1"] = "resultity/network-configuration/1"
    network_id: str
    version: Annotated[int, pydantic.Field(ge=1, le=2**53)]
    predecessor_digest: Hex32 | None = None
    issued_ms: int
    models: tuple[ApprovedModel, ...] = ()
    unverified_models: Annotated[
        tuple[UnverifiedModel, ...], pydantic.Field(max_length=UNVERIFIED_MODELS_MAX)
    ] = ()
    fees: Fees = Fees()
    participation: Participation = Participation()
    limits: Limits = Limits()
    rcp: Rcp = Rcp()
    mint_keys: tuple[Hex32, ...] = ()
    retired_mint_keys: tuple[Hex32, ...] = ()
    dispute_keys: Annotated[tuple[Hex32, ...], pydantic.Field(max_length=16)] = ()
    retired_dispute_keys: tuple[Hex32, ...] = ()
    banned_peers: tuple[str, ...] = ()
    log_keys: tuple[Hex32, ...] = ()
    mirror_peers: tuple[str, ...] = ()
    witnesses: tuple[Witness, ...] = ()
    witness_quorum: Annotated[int, pydantic.Field(ge=0, le=100)] = 0
    subclouds: SubcloudRules = SubcloudRules()
    landmarks: Annotated[tuple[Landmark, ...], pydantic.Field(max_length=256)] = ()

    @pydantic.model_validator(mode="after")
    def _names_are_unique(self) -> NetworkConfiguration:
        names = [model.name for model in (*self.models, *self.unverified_models)]
        digests = [model.digest for model in self.models]
        if len(set(names)) != len(names) or len(set(digests)) != len(digests):
            raise ValueError("a model name or digest is listed twice")
        if (self.version == 1) != (self.predecessor_digest is None):
            raise ValueError("version 1 has no predecessor, every other version names one")
        if len({witness.name for witness in self.witnesses}) != len(self.witnesses):
            raise ValueError("a witness is listed twice")
        if self.witness_quorum > len(self.witnesses):
            raise ValueError("witness_quorum is more than there are witnesses")
        return self

    @property
    def log_public_keys(self) -> frozenset[bytes]:
        """The keys whose checkpoints count; empty: the authority named none."""
        return frozenset(bytes.fromhex(key) for key in self.log_keys)

    @property
    def mint_public_keys(self) -> tuple[bytes, ...]:
        """The keys that may sign grants."""
        return tuple(bytes.fromhex(key) for key in self.mint_keys)

    @property
    def grant_public_keys(self) -> tuple[bytes, ...]:
        """The keys whose grants count: those that may sign now, and those that could earlier."""
        return tuple(bytes.fromhex(key) for key in (*self.mint_keys, *self.retired_mint_keys))

    @property
    def dispute_public_keys(self) -> tuple[bytes, ...]:
        """The keys that may decide disputes, and read their evidence."""
        return tuple(bytes.fromhex(key) for key in self.dispute_keys)

    @property
    def decision_public_keys(self) -> tuple[bytes, ...]:
        """The keys whose decisions count: those that may decide now, or could earlier."""
        keys = (*self.dispute_keys, *self.retired_dispute_keys)
        return tuple(bytes.fromhex(key) for key in keys)

    @property
    def dispute_window_ms(self) -> int:
        """How long a charge can be disputed: never longer than its earnings need to mature."""
        limits = self.limits
        return min(limits.dispute_window_s, limits.earnings_mature_after_s) * 1000

    @property
    def fee_rule(self) -> FeeRule:
        """The shares of a charge as the price rules want them."""
        return FeeRule(self.fees.gateway_basis_points, self.fees.network_basis_points)

    @property
    def all_models(self) -> tuple[ApprovedModel, ...]:
        """The approved models and the unverified ones, each with its digest."""
        network = NetworkId(self.network_id)
        return self.models + tuple(with_digest(network, m) for m in self.unverified_models)

    def model_named(self, name: str) -> ApprovedModel | None:
        """Find a model, approved or unverified, by name."""
        return next((model for model in self.all_models if model.name == name), None)

    def model_with_digest(self, digest: bytes) -> ApprovedModel | None:
        """Find a model by the SHA-256 of its file, or an unverified one by what stands for it."""
        wanted = digest.hex()
        return next((model for model in self.all_models if model.digest == wanted), None)

    def is_banned(self, peer_id: PeerId) -> bool:
        """Tell whether the authority has shut a peer out."""
        return peer_id in self.banned_peers


def price_terms(configuration: NetworkConfiguration, model: ApprovedModel) -> PriceTerms:
    """Give the price terms of a model under a configuration."""
    return PriceTerms(
        model.input_microcredits_per_million_tokens,
        model.output_microcredits_per_million_tokens,
        configuration.version,
        model.name,
        model.cached_input_microcredits_per_million_tokens,
    )


def terms_allowed(configuration: NetworkConfiguration, terms: PriceTerms) -> bool:
    """Tell whether price terms are exactly what a configuration says for their model."""
    model = configuration.model_named(terms.model_name)
    return model is not None and price_terms(configuration, model) == terms


def configuration_digest(signed: Signed) -> str:
    """SHA-256 of the JSON as signed, in hex: what the next version names as its predecessor."""
    return hashlib.sha256(signed.body).hexdigest()


def sign_configuration(authority: KeyPair, configuration: NetworkConfiguration) -> Signed:
    """Sign a configuration with the authority's key."""
    body = configuration.model_dump_json(indent=1).encode()
    network = NetworkId(configuration.network_id)
    return Signed(body, authority.public_key, authority.sign_bytes(network, PURPOSE, body))


def open_configuration(signed: Signed, network: NetworkId) -> NetworkConfiguration:
    """Verify that the network's authority signed a configuration, and read it.

    Raises: UntrustedError (another signer, bad signature), WrongNetworkError, MalformedError.
    """
    if not authority_matches(network, signed.signer):
        raise UntrustedError("this configuration is not signed by the network's authority")
    verify_bytes(network, PURPOSE, signed.body, signed.signer, signed.signature)
    if len(signed.body) > CONFIGURATION_BYTES_MAX:
        raise MalformedError(f"a configuration has at most {CONFIGURATION_BYTES_MAX} bytes")
    try:
        configuration = NetworkConfiguration.model_validate_json(signed.body)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise MalformedError(f"network configuration: {where}: {first['msg']}") from error
    if configuration.network_id != network:
        raise WrongNetworkError(f"a configuration of network {configuration.network_id}")
    return configuration


def check_successor(
    current: NetworkConfiguration, current_digest: str, proposed: NetworkConfiguration, digest: str
) -> bool:
    """Tell whether a proposed configuration may replace the current one.

    Returns: True if it may, False if it is the current one.
    Raises: StaleError (older), ForkError (same version with other content, or a next version that
        names another predecessor).
    """
    if digest == current_digest:
        return False
    if proposed.version < current.version:
        raise StaleError(f"configuration {proposed.version} is older than {current.version}")
    if proposed.version == current.version:
        raise ForkError(f"two configurations with version {current.version}")
    if proposed.version == current.version + 1 and proposed.predecessor_digest != current_digest:
        raise ForkError(f"configuration {proposed.version} names another predecessor")
    return True
