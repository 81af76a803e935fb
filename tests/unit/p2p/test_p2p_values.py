"""Owns the tests of the small values: IDs, API keys, prices, token buckets, freshness."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.api_keys import (
    ApiKey,
    hold_mac,
    is_key_id,
    lookup_mac,
    new_api_key,
    parse_api_key,
    same,
)
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError, StaleError
from p2p.freshness import NonceGuard, SequenceGuard, check_times
from p2p.limits import CLOCK_SKEW_MS_MAX, PRICE_MICROCREDITS_MAX, TOKENS_MAX
from p2p.prices import FeeRule, PriceTerms, charge, exact_price, split_charge
from p2p.token_bucket import TokenBucket
from p2p.types import (
    Microcredits,
    PeerId,
    account_id_from_founding,
    authority_matches,
    is_account_id,
    is_namespace_name,
    network_id,
    parse_network_id,
    peer_id_from_public_key,
    public_key_of,
)
from tests.fakes.clocks import START_MS
from tests.fakes.trust import AUTHORITY, GATEWAY, NETWORK, NODE, OTHER_AUTHORITY, OTHER_NETWORK

# The Ed25519 key of the libp2p peer ID specification's test vectors and RFC 8032's first test key,
# with the peer IDs that py-libp2p gives them.
KNOWN_PEER_IDS = [
    (
        "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e",
        "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq",
    ),
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV",
    ),
]


# --- peer IDs, network IDs, account IDs ---------------------------------------------------------
@pytest.mark.parametrize(("public_key", "peer_id"), KNOWN_PEER_IDS)
def test_known_peer_ids(public_key: str, peer_id: str) -> None:
    assert peer_id_from_public_key(bytes.fromhex(public_key)) == peer_id
    assert public_key_of(PeerId(peer_id)).hex() == public_key


@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_carry_their_key(public_key: bytes) -> None:
    assert public_key_of(peer_id_from_public_key(public_key)) == public_key


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_other_sizes_have_no_peer_id(size: int) -> None:
    with pytest.raises(MalformedError):
        peer_id_from_public_key(bytes(size))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12D3KooW",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        NODE.peer_id + "1",
        "1" + NODE.peer_id,
        NODE.peer_id[:-1],
        NODE.peer_id[:-1] + "0",
        NODE.peer_id + "\n",
        NODE.peer_id + " ",
        " " + NODE.peer_id,
        NODE.peer_id + "\u00e9",
        "0OIl",
    ],
)
def test_texts_that_are_no_peer_ids(text: str) -> None:
    with pytest.raises(MalformedError):
        public_key_of(PeerId(text))


@given(st.text(max_size=60))
def test_random_texts_are_no_peer_ids(text: str) -> None:
    with pytest.raises(MalformedError):
        public_key_of(PeerId(text))


def test_a_network_id_commits_to_its_authority() -> None:
    assert parse_network_id(NETWORK) == NETWORK
    assert authority_matches(NETWORK, AUTHORITY.public_key)
    assert not authority_matches(NETWORK, OTHER_AUTHORITY.public_key)
    assert not authority_matches(OTHER_NETWORK, AUTHORITY.public_key)
    assert network_id("a.b-".strip("-"), AUTHORITY.public_key).startswith("a.b-")


@pytest.mark.parametrize("name", ["", "A", "a-b", "a b", ".a", "a.", "a" * 33, "a\n", "\u00e9"])
def test_bad_network_names(name: str) -> None:
    with pytest.raises(MalformedError):
        network_id(name, AUTHORITY.public_key)


@pytest.mark.parametrize(
    "text",
    ["", "test", "test-", NETWORK[:-1], NETWORK + "0", NETWORK.upper(), NETWORK + "\n", "-" * 40],
)
def test_bad_network_ids(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_network_id(text)


def test_account_ids_and_namespaces() -> None:
    account_id = account_id_from_founding(b"document")
    assert is_account_id(account_id)
    assert account_id != account_id_from_founding(b"another")
    assert not any(is_account_id(text) for text in ("", account_id + "0", account_id + "\n"))
    assert all(is_namespace_name(name) for name in ("a", "dev", "customer-1", "a" * 64))
    assert not any(is_namespace_name(n) for n in ("", "-a", "a-", "A", "a/b", "a" * 65, "a\n"))


# --- API keys -----------------------------------------------------------------------------------
@given(st.binary(min_size=42, max_size=42))
def test_api_keys_are_read_back(random_bytes: bytes) -> None:
    key = new_api_key(random_bytes)
    assert parse_api_key(key.text) == key
    assert is_key_id(key.key_id)
    assert len(key.hold_key()) == 32
    assert key.hold_key() != key.secret


def test_secrets_are_not_shown() -> None:
    key = new_api_key(bytes(range(42)))
    assert key.text.rpartition("_")[2] not in repr(key)
    assert repr(key.secret) not in repr(key)
    with pytest.raises(MalformedError) as caught:
        parse_api_key(key.text + "x")
    assert key.text not in str(caught.value)


@given(st.text(max_size=80) | st.from_regex(r"rk_[a-z2-7]{15,17}_[A-Za-z0-9_-]{42,44}"))
def test_other_texts_are_no_api_keys(text: str) -> None:
    try:
        assert parse_api_key(text).text == text
    except MalformedError:
        pass


def test_a_key_has_one_spelling() -> None:
    """The last character of 43 has two bits to spare: other values of them are other texts."""
    text = new_api_key(bytes(42)).text
    assert text.endswith("A")
    with pytest.raises(MalformedError):
        parse_api_key(text[:-1] + "B")


def test_macs_bind_everything() -> None:
    key = ApiKey("a" * 16, bytes(32)).hold_key()
    base = (key, NETWORK, GATEWAY.peer_id, bytes(16), 7, START_MS)
    others = [
        (bytes(32), *base[1:]),
        (key, OTHER_NETWORK, *base[2:]),
        (*base[:2], NODE.peer_id, *base[3:]),
        (*base[:3], bytes([1]) * 16, *base[4:]),
        (*base[:4], 8, START_MS),
        (*base[:5], START_MS + 1),
    ]
    macs = {hold_mac(*arguments) for arguments in [base, *others]}
    assert len(macs) == 7
    assert lookup_mac(key, NETWORK, GATEWAY.peer_id, bytes(16), START_MS) not in macs
    assert same(b"x" * 32, b"x" * 32)
    assert not same(b"x" * 32, b"y" * 32)


# --- prices -------------------------------------------------------------------------------------
prices = st.integers(0, PRICE_MICROCREDITS_MAX)
counts = st.integers(0, TOKENS_MAX)
terms = st.builds(PriceTerms, prices, prices, st.just(1), st.just("model"))


@given(terms, counts, counts, counts, counts)
def test_charges_are_monotone_and_rounded_up_once(
    price: PriceTerms, tokens_in: int, tokens_out: int, more_in: int, more_out: int
) -> None:
    exact = (
        price.input_microcredits_per_million_tokens * tokens_in
        + price.output_microcredits_per_million_tokens * tokens_out
    )
    amount = charge(price, tokens_in, tokens_out)
    assert exact <= amount * 10**6 < exact + 10**6
    assert 0 <= amount < 2**63 * 2
    assert charge(price, tokens_in + more_in, tokens_out + more_out) >= amount
    parts = charge(price, tokens_in, 0) + charge(price, 0, tokens_out)
    assert amount <= parts <= amount + 1


@given(terms, prices, counts, counts, counts)
def test_cached_input_has_its_own_price(
    price: PriceTerms, cached_price: int, tokens_in: int, cached: int, tokens_out: int
) -> None:
    cached = min(cached, tokens_in)
    cached_price = min(cached_price, price.input_microcredits_per_million_tokens)
    assert charge(price, tokens_in, tokens_out, cached) == charge(price, tokens_in, tokens_out)
    cheaper = replace(price, cached_input_microcredits_per_million_tokens=cached_price)
    saved = (price.input_microcredits_per_million_tokens - cached_price) * cached
    exact = exact_price(price, tokens_in, tokens_out) - saved
    assert exact_price(cheaper, tokens_in, tokens_out, cached) == exact
    assert exact <= charge(cheaper, tokens_in, tokens_out, cached) * 10**6 < exact + 10**6


def test_terms_without_a_price_for_cached_input_are_sent_as_they_always_were() -> None:
    old = PriceTerms(2, 5, 1, "model")
    assert encode_message(old) == bytes.fromhex("953b020501a56d6f64656c")
    for cached in (None, 0, 1):
        terms = replace(old, cached_input_microcredits_per_million_tokens=cached)
        assert decode_message(encode_message(terms), PriceTerms) == terms


def test_prices_of_known_jobs() -> None:
    price = PriceTerms(2_000_000, 5_000_000, 1, "model")
    assert charge(price, 0, 0) == 0
    assert charge(price, 10, 20) == 120
    assert charge(PriceTerms(1, 0, 1, "model"), 1, 0) == 1
    assert charge(PriceTerms(0, 0, 1, "model"), 10**6, 10**6) == 0


@given(
    st.integers(0, 10**17),
    st.lists(st.integers(0, 10**18), min_size=1, max_size=8),
    st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000)).filter(
        lambda fees: sum(fees) <= 10_000
    ),
)
def test_a_split_adds_up(total: int, weights: list[int], shares: tuple[int, int, int]) -> None:
    fees = FeeRule(*shares)
    split = split_charge(Microcredits(total), tuple(weights), fees)
    assert sum(split.nodes) + split.gateway + split.network + split.owner == total
    assert min(*split.nodes, split.gateway, split.network, split.owner, 0) == 0
    assert split.owner == total * shares[2] // 10_000
    assert len(split.nodes) == len(weights)
    remaining = total - split.gateway - split.network - split.owner
    if sum(weights):
        for part, weight in zip(split.nodes[:-1], weights[:-1], strict=True):
            assert part == remaining * weight // sum(weights)
        assert split.nodes[-1] <= remaining * weights[-1] // sum(weights) + len(weights)


# --- token bucket -------------------------------------------------------------------------------
def test_a_bucket_allows_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(2.0, 3.0, 100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s() == pytest.approx(0.5)
    assert not bucket.take(100.4)
    assert bucket.take(100.5)
    assert not bucket.take(100.5)
    assert bucket.wait_s(2.0) == pytest.approx(1.0)


@given(
    st.floats(0.5, 100),
    st.floats(1, 50),
    st.lists(st.floats(-1, 3), min_size=1, max_size=60),
)
def test_a_bucket_never_gives_more_than_rate_and_burst(
    rate_per_s: float, burst: float, pauses: list[float]
) -> None:
    bucket = TokenBucket(rate_per_s, burst, 0.0)
    now, latest, given_out = 0.0, 0.0, 0
    passed_s = 0.0
    for pause in pauses:
        now += pause
        passed_s += max(0.0, now - latest)
        latest = now
        given_out += bucket.take(now)
    assert given_out <= burst + rate_per_s * passed_s + 1e-6


# --- freshness ----------------------------------------------------------------------------------
def test_times() -> None:
    check_times(START_MS, START_MS + 1, START_MS)
    check_times(START_MS + CLOCK_SKEW_MS_MAX, START_MS + CLOCK_SKEW_MS_MAX + 1, START_MS)
    for issued, expires in [
        (START_MS + CLOCK_SKEW_MS_MAX + 1, START_MS + 10**9),
        (START_MS - 10, START_MS),
        (START_MS - 10, START_MS - 1),
        (START_MS + 20, START_MS + 20),
        (START_MS + 20, START_MS + 10),
    ]:
        with pytest.raises(StaleError):
            check_times(issued, expires, START_MS)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=60))
def test_sequences_only_rise(items: list[tuple[str, int]]) -> None:
    guard, highest = SequenceGuard(), dict[str, int]()
    for sender, sequence in items:
        if sequence > highest.get(sender, -1):
            guard.check(sender, sequence)
            highest[sender] = sequence
        else:
            with pytest.raises(StaleError):
                guard.check(sender, sequence)


def test_the_longest_silent_sender_is_forgotten_first() -> None:
    guard = SequenceGuard(senders_max=2)
    for sender in ("a", "b", "a", "c"):
        guard.check(sender, 5 if sender != "a" else 5 + len(guard._highest))
    guard.check("b", 5)
    with pytest.raises(StaleError):
        guard.check("c", 5)


def test_a_nonce_passes_once_until_it_expires() -> None:
    guard = NonceGuard(entries_max=2)
    guard.check(b"a", 100, 0)
    with pytest.raises(StaleError, match="replay"):
        guard.check(b"a", 100, 99)
    guard.check(b"b", 100, 99)
    with pytest.raises(StaleError, match="too many"):
        guard.check(b"c", 100, 99)
    guard.check(b"a", 200, 100)
