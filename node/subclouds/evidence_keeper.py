"""Owns the evidence that a node has about itself: collects it, keeps it, and picks what it shows.

Theory of operation. Landmarks whose region the node's declared country is in measure it, again
before half of a statement's life is over, until enough of them found it near; this needs a direct
connection to them. Attestations come as files from the owners of subclouds, or through the
bootstraps; benchmarks from the gateways that made them. Everything is checked like anybody else's
before it is kept, and outlives a restart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import trio

from node.limits import (
    EVIDENCE_DOCUMENTS_MAX,
    EVIDENCE_FILE_BYTES_MAX,
    EVIDENCE_LOOK_S,
    LANDMARK_FAR_RETRY_S,
    LANDMARK_RETRY_S,
    LANDMARKS_KEPT,
)
from p2p.clock import Clock
from p2p.codec import (
    decode_message,
    decode_messages,
    encode_message,
    encode_messages,
)
from p2p.configuration_book import ConfigurationBook
from p2p.errors import MalformedError, P2PError, RefusedError, StaleError
from p2p.files import write_atomically
from p2p.limits import EVIDENCE_BYTES_MAX, LANDMARK_LIFETIME_S
from p2p.network import Network, Way
from p2p.signing import KeyPair, Signed
from p2p.subclouds.evidence_documents import (
    EvidenceDocument,
    KnownAttestation,
    KnownBenchmark,
    open_document,
)
from p2p.subclouds.evidence_messages import LandmarkStatement
from p2p.subclouds.identity import label_of
from p2p.subclouds.landmarks import ask_landmark
from p2p.subclouds.memberships import EVIDENCE_PER_NODE_MAX
from p2p.types import PeerId

log = logging.getLogger(__name__)
Key = tuple[str, ...]
FILE, INBOX = "evidence.msgpack", "inbox"
SUFFIX = ".evidence"


class EvidenceKeeper:
    """Keeps a node's evidence."""

    def __init__(
        self,
        network: Network,
        key_pair: KeyPair,
        configuration: ConfigurationBook,
        *,
        clock_ms: Clock,
        folder: Path,
        country: Callable[[], str],
        on_change: Callable[[], None] = lambda: None,
        addresses_of: Callable[[PeerId], Sequence[str]] = lambda peer_id: (),
    ) -> None:
        """Keep files in `folder` (made here), with an inbox for files of the operator.

        Args:
            country: as the operator declares it; without one nothing is measured.
            on_change: called when `documents` gives something else than before.
            addresses_of: where a landmark can be dialled, as far as that is known.
        """
        self._network = network
        self._key_pair = key_pair
        self._configuration = configuration
        self._clock_ms = clock_ms
        self._folder = folder
        self._country = country
        self._addresses_of = addresses_of
        self.on_change = on_change
        self._kept: dict[Key, tuple[Signed, EvidenceDocument]] = {}
        self._not_before_s: dict[PeerId, float] = {}
        self._said: dict[PeerId, str] = {}
        (folder / INBOX).mkdir(parents=True, exist_ok=True)
        self._load()

    # --- what there is --------------------------------------------------------------------------
    def documents(self) -> tuple[Signed, ...]:
        """What the node shows: unexpired, the most useful first, bounded in number and bytes."""
        chosen: list[Signed] = []
        size_bytes = 0
        for signed, _ in self._best():
            size_bytes += len(signed.body) + len(signed.signer) + len(signed.signature) + 8
            if len(chosen) == EVIDENCE_PER_NODE_MAX or size_bytes > EVIDENCE_BYTES_MAX:
                break
            chosen.append(signed)
        return tuple(chosen)

    def attestations(self) -> tuple[KnownAttestation, ...]:
        """What delegates vouch for, as the node judges itself by it."""
        return tuple(d for _, d in self._best() if isinstance(d, KnownAttestation))

    def lines(self) -> tuple[str, ...]:
        """One line for each document, for the operator."""
        return tuple(describe(document) for _, document in self._best())

    def _best(self) -> list[tuple[Signed, EvidenceDocument]]:
        """Landmarks (few, short-lived), attestations, benchmarks; of each the longest-lived."""
        now_ms = self._clock_ms()
        live = [kept for kept in self._kept.values() if _expires_ms(kept[1]) > now_ms]
        return sorted(live, key=lambda kept: (_rank(kept[1]), -_expires_ms(kept[1])))

    def add(self, signed: Signed) -> str:
        """Keep a document about this node; gives one line that says what it is.

        Raises: UntrustedError (not about this node, forged), StaleError (expired, or older than
            what is there), MalformedError.
        """
        now_ms = self._clock_ms()
        document = open_document(signed, self._network.network_id, self._key_pair.peer_id, now_ms)
        key = _key(document, signed)
        present = self._kept.get(key)
        if present is not None:
            if present[0] == signed:
                return describe(document)
            if _issued_ms(document) < _issued_ms(present[1]):
                raise StaleError("older than what this node has already")
        self._prune(now_ms)
        if key not in self._kept and len(self._kept) >= EVIDENCE_DOCUMENTS_MAX:
            self._drop_one(document)
        self._kept[key] = (signed, document)
        self._store()
        self.on_change()
        return describe(document)

    def _prune(self, now_ms: int) -> bool:
        gone = [key for key, kept in self._kept.items() if _expires_ms(kept[1]) <= now_ms]
        for key in gone:
            del self._kept[key]
        return bool(gone)

    def _drop_one(self, for_document: EvidenceDocument) -> None:
        """Make room by a benchmark that ends first: attestations are made by people."""
        found = [key for key, kept in self._kept.items() if isinstance(kept[1], KnownBenchmark)]
        if not found:
            raise RefusedError("full", f"a node keeps {EVIDENCE_DOCUMENTS_MAX} documents at most")
        del self._kept[min(found, key=lambda key: _expires_ms(self._kept[key][1]))]

    # --- files ------------------------------------------------------------------------------------
    def _load(self) -> None:
        path = self._folder / FILE
        if not path.exists():
            return
        try:
            items = decode_messages(path.read_bytes())
        except (OSError, P2PError) as error:
            log.warning("%s is damaged (%s): attestations have to be given again", path, error)
            return
        for item in items:
            try:
                if isinstance(item, Signed):
                    document = open_document(
                        item, self._network.network_id, self._key_pair.peer_id, self._clock_ms()
                    )
                    self._kept[_key(document, item)] = (item, document)
            except P2PError as error:
                log.debug("evidence dropped: %s", error)

    def _store(self) -> None:
        path = self._folder / FILE
        if self._kept:
            write_atomically(path, encode_messages([s for s, _ in self._kept.values()]), 0o600)
        else:
            path.unlink(missing_ok=True)

    def take_inbox(self) -> None:
        """Take the files that the operator gave (`resultity node subclouds evidence add`)."""
        for path in sorted((self._folder / INBOX).glob(f"*{SUFFIX}")):
            try:
                log.info("evidence: %s", self.add(read_evidence_file(path)))
            except (OSError, P2PError) as error:
                log.warning("evidence file %s is not taken: %s", path.name, error)
            path.unlink(missing_ok=True)

    # --- landmarks --------------------------------------------------------------------------------
    async def run(self) -> None:
        """Collect, and let what has ended go, until cancelled."""
        while True:
            self.take_inbox()
            if self._prune(self._clock_ms()):
                self._store()
                self.on_change()
            await self.measure()
            await trio.sleep(EVIDENCE_LOOK_S)

    async def measure(self) -> None:
        """Have those landmarks measure this node whose statement is missing or half over."""
        for landmark in self._due():
            try:
                await self._connect(landmark)
                signed = await ask_landmark(self._network, self._key_pair, landmark)
                pause_s = self._take_measurement(signed, landmark)
                self._said.pop(landmark, None)
            except P2PError as error:
                after_s = error.retry_after_s if isinstance(error, RefusedError) else None
                pause_s = max(LANDMARK_RETRY_S, after_s or 0)
                if str(error) != self._said.get(landmark):
                    self._said[landmark] = str(error)
                    log.info("landmark %s does not measure us: %s", landmark, error)
            self._not_before_s[landmark] = trio.current_time() + pause_s

    def _take_measurement(self, signed: Signed, landmark: PeerId) -> float:
        """Keep a landmark's statement if it shows that we are near; gives how long to rest."""
        statement = decode_message(signed.body, LandmarkStatement)
        near = self._near(self._country())
        if statement.round_trip_us > near.get(landmark, 0.0) * 1000:
            found_ms = statement.round_trip_us / 1000
            raise RefusedError("far", f"{found_ms:.1f} ms are too long", LANDMARK_FAR_RETRY_S)
        log.info("%s", self.add(signed))
        return LANDMARK_RETRY_S

    def _near(self, country: str) -> dict[PeerId, float]:
        """The landmarks of a country, with their bounds in milliseconds."""
        return {
            PeerId(landmark.peer_id): landmark.round_trip_ms_max
            for landmark in self._configuration.current.landmarks
            if country in landmark.countries and landmark.peer_id != self._key_pair.peer_id
        }

    def _due(self) -> Iterator[PeerId]:
        country = self._country()
        if not country or not self._configuration.known:
            return
        now_ms, now_s = self._clock_ms(), trio.current_time()
        half_ms = int(LANDMARK_LIFETIME_S * 500)
        near = list(self._near(country))
        fresh = {
            document.landmark
            for _, document in self._kept.values()
            if isinstance(document, LandmarkStatement) and document.expires_ms > now_ms + half_ms
        }
        wanted = LANDMARKS_KEPT - len(fresh.intersection(near))
        # Those that are connected first: they cost no dial.
        near.sort(key=lambda peer_id: self._network.way_to(peer_id) is not Way.DIRECT)
        for peer_id in near:
            if wanted <= 0:
                return
            if peer_id not in fresh and self._not_before_s.get(peer_id, 0) <= now_s:
                wanted -= 1
                yield peer_id

    async def _connect(self, landmark: PeerId) -> None:
        if self._network.way_to(landmark) is Way.DIRECT:
            return
        failure: P2PError = RefusedError("no_way", "there is no direct connection to it")
        for address in self._addresses_of(landmark):
            try:
                await self._network.connect(address)
                return
            except P2PError as error:
                failure = error
        raise failure


# --- documents ----------------------------------------------------------------------------------
def read_evidence_file(path: Path) -> Signed:
    """Read a document as `resultity subcloud attest` writes it. Raises: OSError, MalformedError."""
    if path.stat().st_size > EVIDENCE_FILE_BYTES_MAX:
        raise MalformedError(f"{path.name} is too large for a piece of evidence")
    return decode_message(path.read_bytes(), Signed)


def give_to_inbox(folder: Path, signed: Signed) -> None:
    """Put a document where a running node's keeper (with that folder) finds it."""
    inbox = folder / INBOX
    inbox.mkdir(parents=True, exist_ok=True)
    path = inbox / f"{signed.digest().hex()[:16]}{SUFFIX}"
    write_atomically(path, encode_message(signed), 0o600)


def describe(document: EvidenceDocument) -> str:
    """Say in one line what a document shows."""
    if isinstance(document, LandmarkStatement):
        return (
            f"landmark {document.landmark}: {document.round_trip_us / 1000:.1f} ms there and back"
        )
    if isinstance(document, KnownAttestation):
        said = document.document
        gpus = [f"{gpu.name} ({gpu.memory_bytes / 2**30:g} GiB)" for gpu in said.gpus]
        memory = [f"{said.memory_bytes / 2**30:g} GiB memory"] if said.memory_bytes else []
        speeds = [f"{speed.tokens_per_second:g} tokens/s" for speed in said.speeds]
        what = ", ".join([*([said.country] if said.country else []), *memory, *gpus, *speeds])
        return f"attestation for {label_of(said.subcloud_id)}: {what}"
    measured = document.document
    return (
        f"benchmark by {measured.tester}: model {measured.model_digest.hex()[:12]}, "
        f"{measured.tokens_per_second:.1f} tokens/s"
    )


def _key(document: EvidenceDocument, signed: Signed) -> Key:
    """What a newer document of the same key replaces."""
    if isinstance(document, LandmarkStatement):
        return ("landmark", document.landmark)
    if isinstance(document, KnownAttestation):
        said = document.document
        kinds = f"{bool(said.country)}{bool(said.gpus or said.memory_bytes)}{bool(said.speeds)}"
        return ("attestation", said.subcloud_id, kinds, signed.signer.hex())
    measured = document.document
    return ("benchmark", measured.tester, measured.model_digest.hex())


def _rank(document: EvidenceDocument) -> int:
    if isinstance(document, LandmarkStatement):
        return 0
    return 1 if isinstance(document, KnownAttestation) else 2


def _expires_ms(document: EvidenceDocument) -> int:
    if isinstance(document, LandmarkStatement):
        return document.expires_ms
    return document.document.expires_ms


def _issued_ms(document: EvidenceDocument) -> int:
    if isinstance(document, LandmarkStatement):
        return document.issued_ms
    return document.document.issued_ms
