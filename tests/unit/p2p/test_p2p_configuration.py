"""Owns the tests of network configurations: signed by the authority, newer, never forked; kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pydantic
import pytest

from p2p.codec import encode_message
from p2p.configuration_book import EVIDENCE_MAX, ConfigurationBook
from p2p.errors import (
    ForkError,
    MalformedError,
    P2PError,
    RefusedError,
    StaleError,
    UntrustedError,
    WrongNetworkError,
)
from p2p.network_configuration import (
    CONFIGURATION_BYTES_MAX,
    PURPOSE,
    NetworkConfiguration,
    check_successor,
    configuration_digest,
    open_configuration,
    price_terms,
    terms_allowed,
)
from p2p.signing import Signed
from tests.fakes.clocks import START_MS
from tests.fakes.trust import (
    AUTHORITY,
    BOOTSTRAP,
    MODEL,
    MODEL_DIGEST,
    NETWORK,
    NODE,
    OTHER_AUTHORITY,
    OTHER_NETWORK,
    configuration,
)

FIRST = configuration()
SECOND = configuration(2, FIRST)
THIRD = configuration(3, SECOND)


def signed_json(fields: Any, network: Any = NETWORK) -> Signed:
    """Sign any JSON (or bytes) as the authority."""
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    signature = AUTHORITY.sign_bytes(network, PURPOSE, body)
    return Signed(body, AUTHORITY.public_key, signature)


MINIMAL: dict[str, Any] = {"network_id": NETWORK, "version": 1, "issued_ms": START_MS}


def test_the_authority_decides() -> None:
    opened = open_configuration(FIRST, NETWORK)
    assert opened.model_named("tiny-chat") == opened.model_with_digest(MODEL_DIGEST) == MODEL
    assert opened.model_named("other") is opened.model_with_digest(bytes(32)) is None
    assert not opened.is_banned(NODE.peer_id)
    banned = open_configuration(configuration(banned_peers=(NODE.peer_id,)), NETWORK)
    assert banned.is_banned(NODE.peer_id)


def test_nobody_else_decides() -> None:
    for foreign in (
        configuration(authority=BOOTSTRAP),
        configuration(authority=OTHER_AUTHORITY, network=OTHER_NETWORK),
        Signed(FIRST.body, AUTHORITY.public_key, bytes(64)),
        Signed(FIRST.body + b" ", AUTHORITY.public_key, FIRST.signature),
    ):
        with pytest.raises(UntrustedError):
            open_configuration(foreign, NETWORK)


def test_the_authority_of_two_networks() -> None:
    """One key may found two networks: a configuration still belongs to one of them."""
    with pytest.raises(WrongNetworkError):
        open_configuration(signed_json({**MINIMAL, "network_id": "test2-" + "0" * 32}), NETWORK)


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b" " * (CONFIGURATION_BYTES_MAX + 1),
        [],
        {},
        {**MINIMAL, "version": 0},
        {**MINIMAL, "version": 2},
        {**MINIMAL, "version": 1, "predecessor_digest": "0" * 64},
        {**MINIMAL, "version": 2, "predecessor_digest": "0" * 63},
        {**MINIMAL, "version": 2**53 + 1, "predecessor_digest": "0" * 64},
        {**MINIMAL, "format": "resultity/network-configuration/2"},
        {**MINIMAL, "issued_ms": "soon"},
        {**MINIMAL, "mint_keys": ["zz"]},
        {**MINIMAL, "fees": {"gateway_basis_points": 5001}},
        {**MINIMAL, "fees": {"gateway_basis_points": -1}},
        {**MINIMAL, "models": [MODEL.model_dump(), MODEL.model_dump()]},
        {**MINIMAL, "models": [{**MODEL.model_dump(), "digest": "0"}]},
        {**MINIMAL, "models": [{**MODEL.model_dump(), "name": "a b"}]},
        {**MINIMAL, "models": [{**MODEL.model_dump(), "context_tokens": 0}]},
        {**MINIMAL, "models": [{**MODEL.model_dump(), "tasks": ["paint"]}]},
    ],
)
def test_documents_that_say_something_else(fields: Any) -> None:
    with pytest.raises(MalformedError):
        open_configuration(signed_json(fields), NETWORK)


def test_what_a_later_version_adds_is_ignored() -> None:
    opened = open_configuration(signed_json({**MINIMAL, "weather": {"rain": True}}), NETWORK)
    assert opened.version == 1


def test_a_configuration_cannot_be_changed() -> None:
    opened = open_configuration(FIRST, NETWORK)
    with pytest.raises(pydantic.ValidationError):
        opened.version = 7  # type: ignore[misc]


def test_price_terms_are_exact() -> None:
    opened = open_configuration(FIRST, NETWORK)
    terms = price_terms(opened, MODEL)
    assert terms_allowed(opened, terms)
    assert not terms_allowed(open_configuration(SECOND, NETWORK), terms)
    dearer = MODEL.model_copy(update={"output_microcredits_per_million_tokens": 1})
    assert not terms_allowed(opened, price_terms(opened, dearer))
    renamed = MODEL.model_copy(update={"name": "other"})
    assert not terms_allowed(opened, price_terms(opened, renamed))


# --- succession ---------------------------------------------------------------------------------
def succession(current: Signed, proposed: Signed) -> bool:
    return check_successor(
        open_configuration(current, NETWORK),
        configuration_digest(current),
        open_configuration(proposed, NETWORK),
        configuration_digest(proposed),
    )


def test_the_next_version_follows_and_the_same_is_no_news() -> None:
    assert succession(FIRST, SECOND)
    assert succession(FIRST, THIRD)
    assert not succession(SECOND, SECOND)


def test_an_older_version_is_stale() -> None:
    with pytest.raises(StaleError):
        succession(SECOND, FIRST)


def test_two_versions_are_a_fork() -> None:
    other = configuration(2, FIRST, mint_keys=("a" * 64,))
    with pytest.raises(ForkError):
        succession(SECOND, other)
    with pytest.raises(ForkError):
        succession(SECOND, configuration(3, other))
    with pytest.raises(ForkError):
        succession(FIRST, configuration(1, mint_keys=("a" * 64,)))


def test_a_rollback_is_a_new_version() -> None:
    banned = configuration(2, FIRST, banned_peers=(NODE.peer_id,))
    undone = configuration(3, banned)
    book = ConfigurationBook(NETWORK)
    for signed in (FIRST, banned, undone):
        assert book.offer(signed)
    assert not book.current.is_banned(NODE.peer_id)


# --- the book -----------------------------------------------------------------------------------
def test_an_empty_book_says_so() -> None:
    book = ConfigurationBook(NETWORK)
    assert not book.known
    assert book.signed is None
    with pytest.raises(RefusedError) as caught:
        _ = book.current
    assert caught.value.code == "no_configuration"


def test_the_book_keeps_the_last_good_one(tmp_path: Path) -> None:
    path = tmp_path / "configuration.msgpack"
    book = ConfigurationBook(NETWORK, path)
    assert book.offer(FIRST)
    assert not book.offer(FIRST)
    assert book.offer(THIRD)
    for refused in (SECOND, configuration(4, authority=BOOTSTRAP), configuration(3)):
        with pytest.raises(UntrustedError):
            book.offer(refused)
    assert book.signed == THIRD
    again = ConfigurationBook(NETWORK, path)
    assert again.signed == THIRD
    assert again.current.version == 3
    with pytest.raises(StaleError):
        again.offer(SECOND)


def test_listeners_hear_the_current_one_and_each_change() -> None:
    book = ConfigurationBook(NETWORK)
    heard: list[tuple[str, int]] = []

    def listener(name: str) -> Any:
        def hear(changed: NetworkConfiguration) -> None:
            assert book.current is changed
            heard.append((name, changed.version))

        return hear

    book.on_change(listener("early"))
    book.offer(FIRST)
    book.on_change(listener("late"))
    book.offer(FIRST)
    book.offer(SECOND)
    assert heard == [("early", 1), ("late", 1), ("early", 2), ("late", 2)]


def test_forks_are_kept_as_evidence_but_not_without_end() -> None:
    book = ConfigurationBook(NETWORK)
    book.offer(SECOND)
    for number in range(EVIDENCE_MAX + 5):
        fork = configuration(2, FIRST, mint_keys=(f"{number:064x}",))
        for _ in range(2):
            with pytest.raises(ForkError):
                book.offer(fork)
    assert len(book.evidence) == EVIDENCE_MAX
    assert book.signed == SECOND


def test_hints_are_refused_quietly(caplog: pytest.LogCaptureFixture) -> None:
    book = ConfigurationBook(NETWORK)
    assert book.offer_quietly(SECOND, "a peer")
    assert not book.offer_quietly(FIRST, "a peer")
    assert "older than 2" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        encode_message(configuration(authority=BOOTSTRAP)),
        encode_message(configuration(authority=OTHER_AUTHORITY, network=OTHER_NETWORK)),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "configuration.msgpack"
    path.write_bytes(content)
    with pytest.raises(P2PError, match=r"configuration\.msgpack"):
        ConfigurationBook(NETWORK, path)
