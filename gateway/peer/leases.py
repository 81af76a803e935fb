"""Owns this gateway's leases: credit that the ledger set aside for it, and what becomes of it.

Theory of operation. Leases are kept by API key and price terms (`lease_rules` decides when one is
asked for and what fits). A job takes its part of a lease without asking anybody: the gateway signs
a LeasedHold, which travels with the offer. Everything that needs the ledger is done by `run`,
beside the jobs: asking, renewing, giving back. A lease goes back when its time is over, when
nothing uses it, when its key was changed, when another gateway's hold did not find enough (a
bootstrap's notice, or a refusal of our own hold), and when the gateway stops; first what no job
needs, the rest when the last job in it is settled. Each lease is journalled before it is asked for:
what a gateway that was killed held goes back at its next start, after the captures that were owed
from it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import trio

from gateway.errors import GatewayError, LedgerUnavailableError
from gateway.limits import (
    CUT_OFF_RECORD_S,
    LEASE_KEYS_MAX,
    LEASE_LOOK_S,
    LEASE_PAUSE_S,
    LEASE_TASKS_MAX,
    LEASES_PER_KEY_MAX,
)
from gateway.peer.journal import SettlementJournal
from gateway.peer.keys import KeyCache, Payer
from gateway.peer.lease_returns import LeaseReturns
from gateway.peer.lease_rules import LocalLease, is_in_demand, lease_amount
from gateway.peer.ledger_port import PASSING_CODES, LedgerPort
from p2p.api_keys import ApiKey
from p2p.certificates import Chain
from p2p.clock import Clock
from p2p.configuration_book import ConfigurationBook
from p2p.errors import P2PError, RefusedError
from p2p.lease_messages import LeasedHold, key_mark, leased_hold_id
from p2p.network_configuration import Limits
from p2p.prices import PriceTerms
from p2p.signing import KeyPair, Signed
from p2p.types import AccountId, NetworkId, PeerId

log = logging.getLogger(__name__)
ID_BYTES = 16
Namespace = tuple[AccountId, str]


@dataclass(frozen=True, slots=True)
class LeasedVoucher:
    """What stands where a voucher would: the ledger's lease and this gateway's part of it."""

    lease_id: bytes
    lease: Signed
    hold_id: bytes
    hold: Signed
    chain: Chain


@dataclass(frozen=True, slots=True)
class LocalHold:
    """What a job wants of a lease (microcredits, milliseconds since 1970)."""

    job_id: bytes
    maximum: int
    deadline_ms: int
    lifetime_ms: int
    source_network: str = ""
    caller_network: str = ""


@dataclass(eq=False, slots=True)
class _Pool:
    """The leases of one key and one set of terms."""

    mark: bytes
    namespace: Namespace
    terms: PriceTerms
    leases: list[LocalLease] = field(default_factory=list)
    last_job_s: float | None = None
    paused_until_s: float = float("-inf")
    asking: bool = False
    stale: bool = False
    """What is being asked for is to go back at once: the key was changed meanwhile."""


class Leases:
    """Takes jobs' credit from leases. Called in trio; usable while `run` runs."""

    def __init__(
        self,
        ledger: LedgerPort,
        journal: SettlementJournal,
        keys: KeyCache,
        configuration: ConfigurationBook,
        key_pair: KeyPair,
        network: NetworkId,
        *,
        use: bool = True,
        issuer_chain: Callable[[PeerId], Chain],
        clock_ms: Clock,
        now_s: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """Begin with what the journal says is still leased from before; `now_s` is monotonic.

        Without `use` nothing new is leased.
        """
        self._ledger = ledger
        self._journal = journal
        self._keys = keys
        self._configuration = configuration
        self._key_pair = key_pair
        self._network = network
        self._issuer_chain = issuer_chain
        self._clock_ms = clock_ms
        self._now_s = now_s
        self._random_bytes = random_bytes
        self._pools: OrderedDict[tuple[str, PriceTerms], _Pool] = OrderedDict()
        self._active: dict[str, list[_Pool]] = {}
        """The pools that have leases or ask for one, by key ID."""
        self._jobs: dict[bytes, LocalLease] = {}
        self._closed = not use
        self._send, self._tasks = trio.open_memory_channel[Callable[[], Awaitable[None]]](
            LEASE_TASKS_MAX
        )
        self._returns = LeaseReturns(ledger, journal, clock_ms=clock_ms, random_bytes=random_bytes)
        for lease in self._returns.inherited:
            self._jobs |= dict.fromkeys(lease.jobs, lease)

    @property
    def open_count(self) -> int:
        """How many leases have not gone back."""
        return len(self._returns.inherited) + sum(len(pool.leases) for pool in self._all_active())

    # --- jobs -----------------------------------------------------------------------------------
    def take(self, payer: Payer, terms: PriceTerms, wanted: LocalHold) -> LeasedVoucher | None:
        """Pay for a job from a lease; None if no lease has room for it.

        Asks for a lease, or for the next one, in the background if that is worth it.
        """
        limits = self._configuration.current.limits
        if self._closed or not limits.lease_usable_s:
            return None
        pool = self._pool(payer, terms)
        now_s, now_ms = self._now_s(), self._clock_ms()
        lease = next(
            (x for x in pool.leases if x.fits(wanted.maximum, wanted.deadline_ms, now_ms)), None
        )
        voucher = self._hold(lease, wanted, now_s, now_ms) if lease is not None else None
        if is_in_demand(pool.last_job_s, now_s):
            self._consider(pool, payer, wanted, limits)
        pool.last_job_s = now_s
        return voucher

    def _hold(
        self, lease: LocalLease, wanted: LocalHold, now_s: float, now_ms: int
    ) -> LeasedVoucher:
        assert lease.signed is not None
        hold_id = leased_hold_id(lease.lease_id, wanted.job_id)
        document = LeasedHold(
            lease.lease_id,
            hold_id,
            wanted.job_id,
            wanted.maximum,
            now_ms,
            min(now_ms + wanted.lifetime_ms, lease.expires_ms),
        )
        lease.take(hold_id, wanted.maximum, now_s)
        self._jobs[hold_id] = lease
        return LeasedVoucher(
            lease.lease_id,
            lease.signed,
            hold_id,
            self._key_pair.sign(self._network, document),
            self._issuer_chain(lease.signed.peer_id) or lease.chain,
        )

    def charged(self, hold_id: bytes, amount: int) -> None:
        """A job is over and its capture is on its way (`settled` follows)."""
        lease = self._jobs[hold_id]
        lease.charge(hold_id, amount)
        self._returns.look_at(lease)

    def released(self, hold_id: bytes, *, failed: bool = False, client_left: bool = False) -> None:
        """A job ended and costs nothing; its part is free at once."""
        lease = self._jobs[hold_id]
        lease.failed += failed
        lease.client_left += client_left
        self.settled(hold_id)

    def settled(self, hold_id: bytes) -> None:
        """The ledger has given its last word about a capture (of whatever hold)."""
        lease = self._jobs.pop(hold_id, None)
        if lease is not None:
            lease.settle(hold_id)
            self._returns.look_at(lease)

    # --- asking ---------------------------------------------------------------------------------
    def _consider(self, pool: _Pool, payer: Payer, wanted: LocalHold, limits: Limits) -> None:
        """Ask for a lease if there is none, or the newest one is nearly used up."""
        now_s, now_ms = self._now_s(), self._clock_ms()
        if pool.asking or now_s < pool.paused_until_s or len(pool.leases) >= LEASES_PER_KEY_MAX:
            return
        if pool.leases and not pool.leases[-1].renewal_is_due(now_ms):
            return
        available = payer.balance.available
        amount = lease_amount(available, wanted.maximum, limits.lease_microcredits_max)
        if not amount:
            return
        ask = partial(self._ask, pool, payer, amount, wanted, limits)
        if self._do(ask):
            pool.asking, pool.stale = True, False
            self._activate(pool, payer.record.key_id)

    async def _ask(
        self, pool: _Pool, payer: Payer, amount: int, wanted: LocalHold, limits: Limits
    ) -> None:
        lease_id, now_ms = self._random_bytes(ID_BYTES), self._clock_ms()
        usable_until_ms = now_ms + limits.lease_usable_s * 1000
        expires_ms = usable_until_ms + limits.hold_lifetime_s_max * 1000
        lease = LocalLease(lease_id, amount, None, now_ms, usable_until_ms, expires_ms, 0.0)
        self._journal.leased(lease_id, expires_ms)
        try:
            result = await self._ledger.lease(
                payer.key,
                lease_id=lease_id,
                amount=amount,
                terms=pool.terms,
                expires_ms=expires_ms,
                source_network=wanted.source_network,
                caller_network=wanted.caller_network,
            )
        except P2PError as error:
            log.info("no lease of %d microcredits: %s", amount, error)
            pool.paused_until_s = self._now_s() + LEASE_PAUSE_S
            if isinstance(error, RefusedError) and error.code not in PASSING_CODES:
                self._journal.lease_ended(lease_id)
                if error.code == "gateway_exposure":
                    self.make_exposure_room(pool)
            else:  # it may have been granted
                lease.amount = 0
                self._close(lease)
        else:
            payer.balance.available = result.available
            lease.signed, lease.used_s = result.lease, self._now_s()
            # Kept: the bootstrap may be away when the lease is shown to a node.
            lease.chain = self._issuer_chain(result.lease.peer_id)
            pool.leases.append(lease)
            if pool.stale or self._closed:
                self._close(lease)
        finally:
            pool.asking = False

    def _pool(self, payer: Payer, terms: PriceTerms) -> _Pool:
        key_id = payer.record.key_id
        pool = self._pools.get((key_id, terms))
        if pool is None:
            namespace = (payer.record.account_id, payer.record.namespace)
            pool = _Pool(key_mark(key_id), namespace, terms)
            active = (p for p in self._active.get(key_id, ()) if p.terms == terms)
            pool = self._pools[(key_id, terms)] = next(active, pool)
            if len(self._pools) > LEASE_KEYS_MAX:
                self._pools.popitem(last=False)
        else:
            self._pools.move_to_end((key_id, terms))
        return pool

    def _activate(self, pool: _Pool, key_id: str) -> None:
        pools = self._active.setdefault(key_id, [])
        if pool not in pools:
            pools.append(pool)

    def _all_active(self) -> Iterator[_Pool]:
        return (pool for pools in self._active.values() for pool in pools)

    # --- records of keys ------------------------------------------------------------------------
    def usable(self, key: ApiKey) -> bool:
        """Whether a lease of this key takes new jobs."""
        pools, now_ms = self._active.get(key.key_id, ()), self._clock_ms()
        return not self._closed and any(x.is_usable(now_ms) for p in pools for x in p.leases)

    def keep_record(self, key: ApiKey) -> None:
        """Renew a leased key's record beside the jobs, ahead of its end."""
        if key.key_id in self._active and self._keys.wants_renewal(key):
            self._do(partial(self._renew_record, key))

    async def _renew_record(self, key: ApiKey) -> None:
        try:
            await self._keys.renew(key)
        except LedgerUnavailableError:
            if self.usable(key):
                self._keys.stale(key, CUT_OFF_RECORD_S)
        except GatewayError as error:
            log.info("leases of %s go back: %s", key.key_id, error)
            self.key_changed((key_mark(key.key_id),))

    # --- giving back ----------------------------------------------------------------------------
    def key_changed(self, marks: Collection[bytes]) -> None:
        """Something about these keys was changed: their leases take no new jobs from now on."""
        self._close_all(pool for pool in self._all_active() if pool.mark in marks)

    def wanted(self, marks: Collection[bytes]) -> None:
        """Another gateway's hold did not find enough: give back what no job needs."""
        self._give_way([pool for pool in self._all_active() if pool.mark in marks])

    def make_room(self, payer: Payer) -> None:
        """An own hold did not find enough: give back what no job of this namespace needs."""
        namespace = (payer.record.account_id, payer.record.namespace)
        self._give_way([pool for pool in self._all_active() if pool.namespace == namespace])

    def make_exposure_room(self, but: _Pool | None = None) -> bool:
        """The ledger lets this gateway have no more credit: give back the leases, of all keys, that
        no job is in. Returns: whether some credit is on its way back."""
        for pool in self._all_active():
            for lease in pool.leases if pool is not but else ():
                if not lease.held and not lease.ended:
                    pool.paused_until_s = self._now_s() + LEASE_PAUSE_S
                    self._close(lease)
        return self._returns.under_way

    def _give_way(self, pools: Collection[_Pool]) -> None:
        for pool in pools:
            pool.paused_until_s = self._now_s() + LEASE_PAUSE_S
        self._close_all(pools)

    def _close_all(self, pools: Iterable[_Pool]) -> None:
        for pool in pools:
            pool.stale = True
            for lease in pool.leases:
                self._close(lease)

    def _close(self, lease: LocalLease) -> None:
        lease.closing = True
        self._returns.look_at(lease)

    async def close(self) -> None:
        """Take no more jobs; returns when everything that no job needs has gone back."""
        self._closed = True
        self._close_all(self._all_active())
        await self._returns.wait_done()

    # --- the work -------------------------------------------------------------------------------
    def _do(self, task: Callable[[], Awaitable[None]]) -> bool:
        try:
            self._send.send_nowait(task)
        except trio.WouldBlock:
            return False
        return True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask, renew and give back until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            nursery.start_soon(self._returns.run)
            task_status.started()
            async for task in self._tasks:
                nursery.start_soon(_guarded, task)

    async def _look(self) -> None:
        """Close what is over or idle, and forget what has ended."""
        while True:
            await trio.sleep(LEASE_LOOK_S)
            self.look()

    def look(self) -> None:
        """Close what is over or idle, and forget what has ended."""
        now_s, now_ms = self._now_s(), self._clock_ms()
        for key_id, pools in list(self._active.items()):
            for pool in pools:
                for lease in pool.leases:
                    if not lease.closing and lease.is_to_close(now_s, now_ms):
                        self._close(lease)
                pool.leases = [x for x in pool.leases if not x.ended]
            left = [pool for pool in pools if pool.leases or pool.asking]
            if left:
                self._active[key_id] = left
            else:
                del self._active[key_id]


async def _guarded(task: Callable[[], Awaitable[None]]) -> None:
    try:
        await task()
    except Exception:
        # Our bug: jobs go on with ordinary holds; the trace is in the log.
        log.exception("a lease could not be worked on")
