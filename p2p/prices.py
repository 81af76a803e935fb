"""Owns the arithmetic of prices: tokens to microcredits, rounded once. Pure, integers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Message, Range, message
from p2p.limits import NAME_CHARACTERS_MAX, PRICE_MICROCREDITS_MAX
from p2p.types import Microcredits

TOKENS_PER_PRICE = 10**6
BASIS_POINTS = 10_000
OWNER_FEE_BASIS_POINTS_MAX = 5000
FEES_BASIS_POINTS_MAX = 9000
"""All fees of a subcloud's job together: nodes get a tenth at least."""

Price = Annotated[int, Range(0, PRICE_MICROCREDITS_MAX)]


@message(59)
@dataclass(frozen=True, slots=True)
class PriceTerms(Message):
    """What a model costs, in microcredits for 10**6 tokens, and by which configuration version.

    `cached_input_...` is for input that the node had in its cache; None: as any input.
    `subcloud_id`: the job is one of this subcloud (empty: of the global pool), under the version of
    its policy that has this SHA-256, whose owner gets this share of the charge. So hold, voucher,
    lease, offer and receipt all say under which policy a job runs.
    """

    TRIMMED: ClassVar[int] = 4
    input_microcredits_per_million_tokens: Price
    output_microcredits_per_million_tokens: Price
    configuration_version: Annotated[int, Range(1, 2**53)]
    model_name: Annotated[str, Limit(NAME_CHARACTERS_MAX)]
    cached_input_microcredits_per_million_tokens: Price | None = None
    subcloud_id: Annotated[str, Limit(NAME_CHARACTERS_MAX)] = ""
    policy_digest: Annotated[bytes, Limit(32)] = b""
    owner_fee_basis_points: Annotated[int, Range(0, OWNER_FEE_BASIS_POINTS_MAX)] = 0


def exact_price(
    terms: PriceTerms, input_tokens: int, output_tokens: int, cached_input_tokens: int = 0
) -> int:
    """Give what tokens cost before rounding, in microcredits times 10**6.

    Args: token counts, each at least 0; `cached_input_tokens` are among the `input_tokens`.
    """
    assert input_tokens >= cached_input_tokens >= 0
    assert output_tokens >= 0
    full = terms.input_microcredits_per_million_tokens
    cached = terms.cached_input_microcredits_per_million_tokens
    return (
        full * (input_tokens - cached_input_tokens)
        + (full if cached is None else cached) * cached_input_tokens
        + terms.output_microcredits_per_million_tokens * output_tokens
    )


def charge(
    terms: PriceTerms, input_tokens: int, output_tokens: int, cached_input_tokens: int = 0
) -> Microcredits:
    """Give what a job costs: the one rounding of a job, upwards to a whole microcredit.

    Args: as for `exact_price`.
    """
    exact = exact_price(terms, input_tokens, output_tokens, cached_input_tokens)
    return Microcredits(-(-exact // TOKENS_PER_PRICE))


@dataclass(frozen=True, slots=True)
class FeeRule:
    """The shares of a charge that go to the gateway's account, to the network, and to the owner of
    the subcloud that the job is one of, in 1/10000."""

    gateway_basis_points: int
    network_basis_points: int
    owner_basis_points: int = 0

    @property
    def total_basis_points(self) -> int:
        """All of them."""
        return self.gateway_basis_points + self.network_basis_points + self.owner_basis_points

    def under(self, terms: PriceTerms) -> FeeRule:
        """Give the shares for jobs under these terms: with the share of their subcloud's owner."""
        owner = terms.owner_fee_basis_points
        if owner == self.owner_basis_points:
            return self
        return FeeRule(self.gateway_basis_points, self.network_basis_points, owner)


@dataclass(frozen=True, slots=True)
class Split:
    """A charge divided so that the parts add up to it exactly."""

    nodes: tuple[Microcredits, ...]
    gateway: Microcredits
    network: Microcredits
    owner: Microcredits


def split_charge(total: Microcredits, weights: tuple[int, ...], fees: FeeRule) -> Split:
    """Divide a job's charge among the fees and the nodes that worked.

    Fees are rounded down; the rest goes to the nodes in proportion to `weights` (their exact
    charges, before rounding), what remains by rounding to the last one.

    Args:
        weights: one non-negative integer for each node, in the order of their work; not empty.
    """
    gateway = total * fees.gateway_basis_points // BASIS_POINTS
    network = total * fees.network_basis_points // BASIS_POINTS
    owner = total * fees.owner_basis_points // BASIS_POINTS
    remaining = total - gateway - network - owner
    weight_sum = sum(weights)
    parts = [remaining * weight // weight_sum if weight_sum else 0 for weight in weights]
    parts[-1] += remaining - sum(parts)
    return Split(
        tuple(Microcredits(p) for p in parts),
        Microcredits(gateway),
        Microcredits(network),
        Microcredits(owner),
    )
