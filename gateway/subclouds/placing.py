"""Owns where a job belongs: which subcloud a request addresses, and whether it may go there.

Theory of operation. A request names a subcloud in its model (`name@subcloud`), in the extension
field, or not at all: then its key's default counts, else it is one of the global pool. Whoever is
named must be the same subcloud; nothing is guessed. The policy in force is then asked, before the
ledger is: is it in force, may this gateway send, may this caller call. The ledger asks again, and
the node too. A job falls back to the global pool only where the policy says so, once, before its
credit is held: its terms are then those of the global pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from gateway.errors import (
    CallerNotAllowedError,
    CallerTokenError,
    GatewayError,
    GatewayNotAdmittedError,
    NotAllowedError,
    SubcloudClosedError,
    SubcloudConflictError,
    SubcloudUnknownError,
)
from gateway.jobs import ChatJob
from gateway.subclouds.directory import SubcloudDirectory
from gateway.subclouds.names import HOW_TO_NAME, Names
from gateway.subclouds.tally import Tally
from p2p.approved_models import ApprovedModel, UnverifiedModel, unverified_digest
from p2p.clock import Clock
from p2p.errors import P2PError
from p2p.key_limits import allows_subcloud, network_of
from p2p.ledger_messages import KeyRecord
from p2p.network_configuration import NetworkConfiguration
from p2p.prices import PriceTerms
from p2p.signing import Signed
from p2p.subclouds.callers import check_caller
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.index import GLOBAL_POOL
from p2p.subclouds.records import KnownPolicy
from p2p.subclouds.terms import model_in_subcloud, subcloud_terms
from p2p.subclouds.tokens import CallerToken, open_token, token_is_revoked
from p2p.types import AccountId, NetworkId, PeerId


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job runs. `known` None: in the global pool.

    Attributes:
        model: the model's name without its address.
        asked: the subcloud that was addressed; another one than `identity` after a fallback.
        caller_network: in which of the policy's source networks the client is.
        caller_token: what the ledger is shown, if the policy takes tokens.
    """

    model: str
    known: KnownPolicy | None = None
    asked: SubcloudId = GLOBAL_POOL
    caller_network: str = ""
    caller_token: Signed | None = None

    @property
    def identity(self) -> SubcloudId:
        """Whose members may serve the job; empty: the global pool's nodes."""
        return self.known.identity if self.known is not None else GLOBAL_POOL

    @property
    def fell_back(self) -> bool:
        """Whether the job goes to the global pool though a subcloud was asked for."""
        return self.asked != self.identity

    @property
    def admits_unverified(self) -> bool:
        """Whether the policy accepts for its callers what nobody can verify."""
        return self.known is not None and not self.known.policy.models.verified_only

    def fallen_back(self) -> Place:
        """The same job in the global pool."""
        return replace(self, known=None, caller_network="", caller_token=None)

    def model_in(self, configuration: NetworkConfiguration) -> ApprovedModel | None:
        """Find the job's model: the policy's own first, then the network's."""
        policy = self.known.policy if self.known is not None else None
        model = model_in_subcloud(configuration, policy, self.model)
        return _as_unverified(NetworkId(configuration.network_id), model) if policy else model

    def terms(self, configuration: NetworkConfiguration, model: ApprovedModel) -> PriceTerms:
        """What the job costs here, and under which policy it runs."""
        policy = self.known.policy if self.known is not None else None
        digest = self.known.digest if self.known is not None else ""
        return subcloud_terms(configuration, policy, digest, model)

    def models(self, configuration: NetworkConfiguration) -> Iterable[ApprovedModel]:
        """All models that jobs here may name: the policy's own, and the network's."""
        if self.known is None:
            return configuration.all_models
        found: dict[str, ApprovedModel] = {m.name: m for m in configuration.all_models}
        network = NetworkId(configuration.network_id)
        for model in self.known.policy.models.own:
            found[model.name] = _as_unverified(network, model) or model
        return found.values()


GLOBAL_PLACE = Place("")


def _as_unverified(network: NetworkId, model: ApprovedModel | None) -> ApprovedModel | None:
    """A policy may approve a server that nobody can verify, by the digest of its name."""
    if model is None or not model.verified:
        return model
    if model.digest != unverified_digest(network, model.name).hex():
        return model
    return UnverifiedModel.model_validate(model.model_dump())


def names_in(job: ChatJob) -> tuple[str, list[str]]:
    """Give a request's model without its address, and every name of a subcloud in it.

    Raises: SubcloudUnknownError (an `@` with nothing beside it).
    """
    model, at, named = job.model.rpartition("@")
    if not at:
        return job.model, [job.subcloud] if job.subcloud else []
    if not model or not named:
        raise SubcloudUnknownError(
            f"The model `{job.model[:200]}` names no subcloud after its @. {HOW_TO_NAME}",
            param="model",
        )
    return model, [named, job.subcloud] if job.subcloud else [named]


class Placing:
    """Says where jobs belong."""

    def __init__(
        self,
        directory: SubcloudDirectory,
        names: Names,
        *,
        peer_id: PeerId,
        account_of: Callable[[], AccountId],
        clock_ms: Clock,
    ) -> None:
        """`peer_id` and `account_of`: this gateway and whose it is."""
        self.directory = directory
        self.names = names
        self.tally = Tally()
        self._peer_id = peer_id
        self._account_of = account_of
        self._clock_ms = clock_ms

    async def place(self, job: ChatJob, record: KeyRecord) -> Place:
        """Say where a job belongs and check that it may go there.

        Raises: SubcloudUnknownError, SubcloudConflictError, SubcloudClosedError, NotAllowedError
            (and its kinds), SubcloudUnavailableError.
        """
        limits = record.limits
        model, named = names_in(job)
        if not named and not limits.default_subcloud and not limits.subclouds:
            return Place(model)
        identity = await self._identity(named or [limits.default_subcloud])
        if not allows_subcloud(limits, identity):
            where = f"the subcloud {identity}" if identity else "the global pool"
            raise NotAllowedError(f"This API key does not allow jobs in {where}.", param="model")
        if identity == GLOBAL_POOL:
            return Place(model)
        known = None
        try:
            known = await self.in_force(identity)
            return self._admitted(Place(model, known, identity), job, record)
        except GatewayError as error:
            if known is not None or self.directory.policy(identity) is not None:
                self.tally.refused(identity, error.code)
            raise

    async def at(self, name: str, record: KeyRecord) -> Place:
        """A subcloud (by its name) as the place of jobs that a key may send, without a model.

        Callers are not checked: that is for the jobs. Raises: as `place`.
        """
        identity = await self.names.resolve(name)
        if not allows_subcloud(record.limits, identity):
            raise NotAllowedError(f"This API key does not allow jobs in {name}.", param="subcloud")
        if identity == GLOBAL_POOL:
            return GLOBAL_PLACE
        return Place("", await self.in_force(identity), identity)

    async def _identity(self, named: list[str]) -> SubcloudId:
        found = [await self.names.resolve(name) for name in named if name]
        if len(set(found)) > 1:
            raise SubcloudConflictError(
                f"The request names two subclouds: `{named[0][:128]}` in its model and "
                f"`{named[1][:128]}` in `resultity.subcloud`. Name one of them only.",
                param="resultity.subcloud",
            )
        return found[0] if found else GLOBAL_POOL

    async def in_force(self, identity: SubcloudId) -> KnownPolicy:
        """The policy of a subcloud, which is in force.

        Raises: SubcloudUnknownError, SubcloudClosedError, SubcloudUnavailableError.
        """
        if self.directory.is_banned(identity):
            raise SubcloudClosedError(f"The network has banned the subcloud {identity}.")
        known = self.directory.policy(identity) or await self.names.fetch(identity)
        if known.policy.ended:
            raise SubcloudClosedError(f"The subcloud {identity} has ended.")
        if known.policy.expires_ms <= self._clock_ms():
            raise SubcloudClosedError(
                f"The policy of the subcloud {identity} has expired: its owner must publish the "
                "next version."
            )
        return known

    def _admitted(self, place: Place, job: ChatJob, record: KeyRecord) -> Place:
        """Check gateway and caller. Raises: NotAllowedError."""
        assert place.known is not None
        policy, identity = place.known.policy, place.identity
        if not policy.admits_gateway(self._peer_id, self._account_of()):
            raise GatewayNotAdmittedError(
                f"The policy of the subcloud {identity} does not let this gateway send jobs: ask "
                "its owner through which gateways it can be reached."
            )
        network = network_of(policy.callers.source_networks, job.source)
        caller = (policy, record.account_id, record.namespace, record.key_id)
        reason, shown = check_caller(*caller, None, network), None
        if reason is not None and job.caller_token is not None:
            # Only where it is needed: its uses are counted.
            token = self._token(place.known, job.caller_token)
            reason, shown = check_caller(*caller, token, network), job.caller_token
        if reason is not None:
            raise CallerNotAllowedError(f"{reason[0].upper()}{reason[1:]}.")
        return replace(place, caller_network=network, caller_token=shown)

    def _token(self, known: KnownPolicy, shown: Signed) -> CallerToken | None:
        """Open the token that a request shows, where tokens count. Raises: CallerTokenError."""
        if not known.policy.callers.tokens:
            return None
        try:
            token = open_token(shown, known.policy, self._clock_ms())
        except P2PError as error:
            raise CallerTokenError(f"The access token is not good: {error}.") from error
        if token_is_revoked(token, self.directory.policies.revocations(known.identity)):
            raise CallerTokenError("The access token was revoked.")
        return token
