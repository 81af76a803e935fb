"""Owns alarms about the log: making the proof of a fork, believing an alarm, keeping a few. Pure.

Theory of operation. Two checkpoints that log keys signed prove a fork by themselves if the larger
tree does not start with the smaller one: they have one size and different roots, or a consistency
proof shows that the larger tree starts with another root than was signed for the smaller size. Such
an alarm is believed whoever sends it. Everything else that can be wrong (a record that breaks a
rule, a leaf that is not its record's, a missing record, a log that became shorter) needs the
records to be seen; there the word of a certified bootstrap, as mirrors are, is kept as its word.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from ledger.log.errors import ProofError
from ledger.log.merkle import verify_consistency
from ledger.log.proofs import VerifiedHead, verify_checkpoint
from p2p.certificates import verify_chain
from p2p.errors import P2PError
from p2p.log_messages import Checkpoint
from p2p.mirror_messages import ALARM_TEXT_CHARACTERS_MAX, AlarmNotice, LogAlarm
from p2p.signing import open_signed
from p2p.types import NetworkId, PeerId, Role

FORK, RULE, LEAF, MISSING, ROLLBACK = "fork", "rule", "leaf", "missing", "rollback"
KINDS = (FORK, RULE, LEAF, MISSING, ROLLBACK)
ALARMS_OF_A_KIND_PER_SIGNER_MAX = 16
ALARMS_MAX = 256
HEADS_MAX = 4096
"""Checkpoints that are remembered to compare: at one in ten seconds, eleven hours."""


@dataclass(frozen=True, slots=True)
class BelievedAlarm:
    """An alarm that was checked. `proven`: the checkpoints in it prove it, whoever signed."""

    notice: AlarmNotice
    alarm: LogAlarm
    signer: PeerId
    proven: bool

    def facts(self) -> dict[str, object]:
        """Say it for people and programs."""
        return {
            "kind": self.alarm.kind,
            "proven": self.proven,
            "size": self.alarm.size,
            "other_size": self.alarm.other_size,
            "text": self.alarm.text,
            "signer": self.signer,
            "at_ms": self.alarm.issued_ms,
        }


def fork_alarm(
    first: Checkpoint,
    second: Checkpoint,
    network: NetworkId,
    issued_ms: int,
    *,
    old_root: bytes = b"",
    proof: tuple[bytes, ...] = (),
    log_keys: Collection[bytes] = (),
) -> LogAlarm:
    """Make the alarm that two checkpoints prove.

    Raises: ProofError if they prove nothing.
    """
    one, other = (verify_checkpoint(item, network, log_keys).head.size for item in (first, second))
    text = (
        f"the log has two roots for its first {one} leaves: one is signed, the signed tree of "
        f"{other} leaves starts with another"
        if one != other
        else f"two different roots are signed for the log of {one} leaves"
    )
    alarm = LogAlarm(FORK, one, other, text, first, second, old_root, proof, issued_ms)
    check_fork(alarm, network, log_keys)
    return alarm


def check_fork(
    alarm: LogAlarm, network: NetworkId, log_keys: Collection[bytes] = ()
) -> tuple[VerifiedHead, VerifiedHead]:
    """Check that an alarm proves a fork. Raises: ProofError if it does not."""
    if alarm.first is None or alarm.second is None:
        raise ProofError("a fork is proved by two checkpoints")
    first = verify_checkpoint(alarm.first, network, log_keys)
    second = verify_checkpoint(alarm.second, network, log_keys)
    if (alarm.size, alarm.other_size) != (first.head.size, second.head.size):
        raise ProofError("this alarm names other sizes than its checkpoints")
    if first.head.size == second.head.size:
        if first.head.root == second.head.root:
            raise ProofError("these checkpoints are of one tree")
        return first, second
    verify_consistency(
        first.head.size, second.head.size, alarm.old_root, second.head.root, alarm.proof
    )
    if alarm.old_root == first.head.root:
        raise ProofError("these checkpoints are consistent")
    return first, second


def believe(
    notice: AlarmNotice, network: NetworkId, now_ms: int, log_keys: Collection[bytes] = ()
) -> BelievedAlarm:
    """Check an alarm and who signed it.

    Raises: ProofError if it is not worth keeping.
    """
    try:
        alarm = open_signed(notice.alarm, LogAlarm, network)
        certificate = verify_chain(notice.chain, network, notice.alarm.peer_id, now_ms)
    except P2PError as error:
        raise ProofError(f"this alarm is not by a peer of the network: {error}") from error
    if alarm.kind not in KINDS or not alarm.text.isprintable():
        raise ProofError("this is no alarm of a known kind")
    if alarm.kind == FORK:
        check_fork(alarm, network, log_keys)
    elif certificate.role is not Role.BOOTSTRAP:
        raise ProofError(f"a {certificate.role} may only report what proves itself")
    return BelievedAlarm(notice, alarm, notice.alarm.peer_id, alarm.kind == FORK)


def plain_text(text: str) -> str:
    """Make any text fit for an alarm."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown[:ALARM_TEXT_CHARACTERS_MAX]


class AlarmBook:
    """Keeps alarms, a bounded number of each signer and kind; the same one once."""

    def __init__(self) -> None:
        self._alarms: OrderedDict[tuple[object, ...], BelievedAlarm] = OrderedDict()

    def add(self, found: BelievedAlarm) -> bool:
        """Keep an alarm; tells whether it is new and was kept."""
        alarm = found.alarm
        key = (found.signer, alarm.kind, alarm.size, alarm.other_size)
        own = sum(1 for kept in self._alarms if kept[:2] == key[:2])
        if (
            key in self._alarms
            or own >= ALARMS_OF_A_KIND_PER_SIGNER_MAX
            or len(self._alarms) >= ALARMS_MAX
        ):
            return False
        self._alarms[key] = found
        return True

    def all(self) -> list[BelievedAlarm]:
        """Every alarm, oldest first."""
        return list(self._alarms.values())


class HeadBook:
    """Remembers verified checkpoints by size, and finds two that contradict each other."""

    def __init__(self, network: NetworkId) -> None:
        """Remember checkpoints of a network's log."""
        self._network = network
        self._heads: OrderedDict[int, tuple[bytes, Checkpoint]] = OrderedDict()
        self.newest: tuple[VerifiedHead, Checkpoint] | None = None

    def add(
        self, checkpoint: Checkpoint, now_ms: int, log_keys: Collection[bytes] = ()
    ) -> LogAlarm | None:
        """Take a checkpoint; gives the alarm if another root was signed for its size.

        Raises: ProofError if it is no checkpoint of this log.
        """
        verified = verify_checkpoint(checkpoint, self._network, log_keys)
        head = verified.head
        known = self._heads.get(head.size)
        if known is not None and known[0] != head.root:
            return fork_alarm(known[1], checkpoint, self._network, now_ms, log_keys=log_keys)
        self._heads[head.size] = (head.root, checkpoint)
        if len(self._heads) > HEADS_MAX:
            self._heads.popitem(last=False)
        newest = self.newest
        if newest is None or head.size >= newest[0].head.size:
            longer = newest is not None and len(newest[1].note) > len(checkpoint.note)
            if newest is None or head.size > newest[0].head.size or not longer:
                self.newest = (verified, checkpoint)
        return None
