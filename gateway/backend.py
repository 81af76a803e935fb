"""Owns what the HTTP thread may ask of the peer: each method is called there and does its work in
trio."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.bridge import Bridge, Pipe
from gateway.errors import GatewayError, InvalidRequestError, StoppingError
from gateway.jobs import ChatJob, JobEvent, ModelCard
from gateway.limits import RETRY_AFTER_S, USAGE_ROWS_MAX
from gateway.peer.carried_openings import wrap_opening
from gateway.peer.dispatch import Dispatcher
from gateway.peer.ledger_port import as_client_error
from gateway.peer.services import Services
from gateway.peer.snapshots import Snapshots
from gateway.subcloud_view import NoSubclouds, SubcloudView
from gateway.subclouds.placing import GLOBAL_PLACE
from ledger import methods
from ledger.client import Call
from p2p.api_keys import ApiKey
from p2p.errors import DeadlineError, MalformedError, P2PError, RateLimitedError, RefusedError
from p2p.types import NetworkId
from p2p.usage_messages import UsageRow


@dataclass(frozen=True, slots=True)
class CourierAnswer:
    """What the ledger said to a carried document: bytes, or a refusal with its code."""

    result: bytes = b""
    code: str = ""
    message: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """A namespace's money in microcredits."""

    account_id: str
    namespace: str
    available: int
    held: int
    spent: int
    granted: int


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """The usage of one API key."""

    namespace: str
    rows: tuple[UsageRow, ...]


class Backend:
    """The peer as the HTTP thread sees it."""

    def __init__(
        self,
        bridge: Bridge,
        dispatcher: Dispatcher,
        services: Services,
        snapshots: Snapshots,
        call: Call,
        subclouds: SubcloudView | None = None,
    ) -> None:
        """`call` asks the bootstrap (for carried documents)."""
        self.subclouds: SubcloudView = subclouds or NoSubclouds()
        self._bridge = bridge
        self._dispatcher = dispatcher
        self._services = services
        self._snapshots = snapshots
        self._call = call

    @property
    def network(self) -> NetworkId:
        """The network's ID (thread-safe)."""
        return self._services.network

    def now_ms(self) -> int:
        """The time (thread-safe)."""
        return self._services.clock_ms()

    @property
    def bridge(self) -> Bridge:
        """The bridge, to attach the HTTP thread's loop."""
        return self._bridge

    def random_bytes(self, size_bytes: int) -> bytes:
        """Fresh random bytes (thread-safe)."""
        return self._services.random_bytes(size_bytes)

    def today(self) -> datetime.date:
        """The day in UTC (thread-safe)."""
        now_s = self._services.clock_ms() / 1000
        return datetime.datetime.fromtimestamp(now_s, datetime.UTC).date()

    def submit(self, job: ChatJob) -> Pipe[JobEvent]:
        """Start a job. Raises: StoppingError."""
        return self._bridge.submit(lambda pipe: self._dispatcher.run_job(job, pipe))

    async def models(self, key: ApiKey, subcloud: str = "") -> list[ModelCard]:
        """The models that this key can use now: in its default place, or in the subcloud that is
        named (behind an `@` then). Raises: GatewayError."""

        async def work() -> list[ModelCard]:
            record = (await self._services.keys.check(key)).record
            allowed, named = record.models, subcloud or record.limits.default_subcloud
            placing, suffix = self._services.placing, f"@{subcloud}" if subcloud else ""
            place = await placing.at(named, record) if named else GLOBAL_PLACE
            cards = self._snapshots.model_cards(place, suffix)
            return [c for c in cards if not allowed or c.name.removesuffix(suffix) in allowed]

        return await self._bridge.call(work)

    async def balance(self, key: ApiKey) -> Balance:
        """The balance of the key's namespace. Raises: GatewayError."""

        async def work() -> Balance:
            payer = await self._services.keys.check(key)
            record = payer.record
            try:
                statement = await self._services.ledger.statement(
                    key, record.account_id, record.namespace
                )
            except P2PError as error:
                raise as_client_error(error) from error
            return Balance(
                record.account_id,
                record.namespace,
                statement.available,
                statement.held,
                statement.spent,
                statement.granted,
            )

        return await self._bridge.call(work)

    async def usage(self, key: ApiKey, first_day: int, last_day: int) -> KeyUsage:
        """What a key did, first and last day included. Raises: GatewayError."""

        async def work() -> KeyUsage:
            record = (await self._services.keys.check(key)).record
            rows: list[UsageRow] = []
            try:
                while True:
                    after = rows[-1] if rows else None
                    page = await self._services.ledger.usage(
                        key, record, first_day, last_day, after
                    )
                    rows += page.rows
                    if not page.more:
                        return KeyUsage(record.namespace, tuple(rows))
                    if len(rows) >= USAGE_ROWS_MAX:
                        raise InvalidRequestError(
                            f"This is more than {USAGE_ROWS_MAX} rows: ask for fewer days.",
                            param="from",
                        )
            except P2PError as error:
                raise as_client_error(error) from error

        return await self._bridge.call(work)

    async def snapshot(self, make: Callable[[Snapshots], dict[str, Any]]) -> dict[str, Any]:
        """A public page's content, made in trio."""

        async def work() -> dict[str, Any]:
            return make(self._snapshots)

        return await self._bridge.call(work)

    async def subcloud(self, name: str) -> dict[str, Any]:
        """The public facts of one subcloud, made in trio; empty if it is not known."""

        async def work() -> dict[str, Any]:
            return self._snapshots.subcloud(name)

        return await self._bridge.call(work)

    async def carry(self, method: str, body: bytes, client: str = "") -> CourierAnswer:
        """Carry a signed document to the ledger (`client`: the IP address that it came from).

        Raises: GatewayError (nobody answers).
        """

        async def work() -> CourierAnswer:
            own, sent = self._services, body
            if method == methods.OPERATION:
                sent = wrap_opening(body, client, own.key_pair, own.network, own.clock_ms())
            try:
                return CourierAnswer(await self._call(method, sent))
            except RefusedError as error:
                return CourierAnswer(
                    code=error.code, message=str(error), retry_after_s=error.retry_after_s
                )
            except MalformedError as error:
                return CourierAnswer(code="malformed", message=str(error))
            except (DeadlineError, RateLimitedError, P2PError) as error:
                raise _unreachable() from error

        return await self._bridge.call(work)


def _unreachable() -> GatewayError:
    return StoppingError(
        "No bootstrap answers at the moment; it is tried again.", retry_after_s=RETRY_AFTER_S
    )
