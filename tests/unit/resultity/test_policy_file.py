"""A policy file and its policy are one: there and back; and everything wrong has its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p.approved_models import unverified_digest
from p2p.subclouds.policy import SubcloudPolicy, canonical_json
from p2p.subclouds.policy_rules import StrictPart
from p2p.types import AccountId, NetworkId
from resultity.subclouds.fields import ORIGIN_KEYS, POLICY, Part, bounds_of
from resultity.subclouds.kinds import Kind
from resultity.subclouds.policy_file import Origin, read_policy_file
from resultity.subclouds.policy_writing import write_policy_file
from resultity.subclouds.yaml_nodes import PolicyFileError
from tests.fakes.subclouds import DIGESTS, NETWORK, OWNER, a_policy

HEX = st.sampled_from([digest.hex() for digest in DIGESTS] + ["e" * 64, "1" * 64])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30) | st.sampled_from(
    ["NO", "no", "null", "1.10", "2027-01-01", "a: b", "- x", "# x", "'", '"', "x # y", "~", "<<"]
)
COUNTRIES = st.lists(st.sampled_from(["NO", "DE", "FR", "US", "ON"]), max_size=4, unique=True)
PRICES = st.integers(0, 10**12)
ACCOUNTS = st.lists(st.sampled_from([OWNER, "acct-" + "f" * 40]), max_size=2)
SPEED = st.floats(0, 10**6) | st.integers(0, 100).map(float)


def lists(entries: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(entries, max_size=3)


@st.composite
def own_models(draw: st.DrawFn, number: int) -> dict[str, Any]:
    name = f"own-{number}"
    price = draw(PRICES)
    images = draw(st.booleans())
    return {
        "name": name,
        "version": draw(NAME),
        "digest": draw(HEX | st.just(unverified_digest(NETWORK, name).hex())),
        "context_tokens": draw(st.integers(1, 10**7)),
        "input_microcredits_per_million_tokens": price,
        "output_microcredits_per_million_tokens": draw(PRICES),
        "cached_input_microcredits_per_million_tokens": draw(
            st.none() | st.integers(0, price)
        ),
        "tasks": draw(st.sampled_from([("chat",), ("embeddings",), ("chat", "embeddings")])),
        "embedding_dimensions": draw(lists(st.integers(1, 4096))),
        "modalities": ("text", "image") if images else ("text",),
        "image_tokens_max": draw(st.integers(1, 9999)) if images else None,
        "template_allowance_tokens": draw(st.integers(1, 100)),
    }  # fmt: skip


@st.composite
def demands(draw: st.DrawFn) -> dict[str, Any]:
    """What a policy asks of nodes and prices."""
    allow = draw(COUNTRIES)
    return {
        "regions": {
            "allow": allow,
            "deny": [country for country in draw(COUNTRIES) if country not in allow],
            "evidence": draw(st.sampled_from(["declared", "consistent", "proven", "attested"])),
        },
        "hardware": {
            "gpu": draw(
                st.none()
                | st.fixed_dictionaries({"kind": TEXT, "memory_bytes_min": st.integers(0, 2**53)})
            ),
            "memory_bytes_min": draw(st.integers(0, 64).map(lambda n: n * 2**30)),
            "tokens_per_second_min": draw(SPEED),
            "evidence": draw(st.sampled_from(["declared", "benchmarked", "attested"])),
        },
        "trust": {
            "reputation_min": draw(st.integers(0, 10_000)),
            "jobs_min": draw(st.integers(0, 10**6)),
        },
        "service": {
            "first_token_ms_max": draw(st.integers(0, 600_000)),
            "tokens_per_second_min": draw(SPEED),
            "uptime_min": draw(st.integers(0, 10_000)),
            "capacity_slots_min": draw(st.integers(0, 100_000)),
            "window_s": draw(st.integers(60, 30 * 86_400)),
            "jobs_judged_min": draw(st.integers(1, 10**6)),
            "suspension_s": draw(st.integers(0, 30 * 86_400)),
        },
        "price": {
            "input_microcredits_per_million_tokens_max": draw(st.none() | PRICES),
            "output_microcredits_per_million_tokens_max": draw(st.none() | PRICES),
            "owner_fee_basis_points": draw(st.integers(0, 5000)),
        },
    }  # fmt: skip


@st.composite
def any_policy(draw: st.DrawFn) -> SubcloudPolicy:
    """A policy with any value in every field."""
    issued_ms = draw(st.integers(0, 2**45))
    join = draw(st.sampled_from(["open", "semi-open", "private"]))
    tokens = draw(st.booleans())
    anyone = not tokens and draw(st.booleans())
    own = [draw(own_models(number)) for number in range(draw(st.integers(0, 2)))]
    unverified = any(
        model["digest"] == unverified_digest(NETWORK, model["name"]).hex() for model in own
    )
    fields: dict[str, Any] = {
        "issued_ms": issued_ms,
        "expires_ms": issued_ms + draw(st.integers(1, 2**45)),
        "contact": draw(TEXT),
        "models": {
            "digests": draw(lists(HEX)),
            "names": draw(
                lists(st.fixed_dictionaries({"name": NAME, "versions": lists(NAME)}))
            ),
            "families": draw(lists(NAME)),
            "minimum_quantisation": draw(st.sampled_from([None, "Q4_K_M", "F16"])),
            "modalities": draw(lists(st.sampled_from(["text", "image"]) | NAME)),
            "verified_only": not unverified and draw(st.booleans()),
            "own": own,
        },
        **draw(demands()),
        "join": join,
        "members_max": draw(st.integers(1, 100_000)),
        "cooldown_s": draw(st.integers(0, 90 * 86_400)),
        "callers": {
            "anyone": anyone,
            "accounts": [] if anyone else draw(ACCOUNTS),
            "namespaces": [] if anyone else draw(lists(st.just(f"{OWNER}/default"))),
            "keys": [] if anyone else draw(lists(st.sampled_from(["2" * 16, "a" * 16]))),
            "tokens": tokens,
            "source_networks": draw(lists(st.sampled_from(["10.0.0.0/8", "2001:db8::/32"]))),
        },
        "isolate": draw(st.booleans()),
        "fallback": "none" if join == "private" else draw(st.sampled_from(["none", "global"])),
        "running_jobs": draw(st.sampled_from(["finish", "move"])),
        "gateways": {"accounts": draw(ACCOUNTS)},
        "revocation_list_age_s_max": draw(st.integers(30, 7 * 86_400)),
        "data": {"no_content_storage": draw(st.booleans())},
        "delegate_keys": ["d" * 64] if join != "open" or tokens else draw(lists(HEX)),
        "ended": draw(st.booleans()),
    }  # fmt: skip
    return a_policy(draw(st.sampled_from(["eu-legal", "no", "1", "007"])), **fields)


def origin(policy: SubcloudPolicy) -> Origin:
    return Origin(NetworkId(policy.network_id), AccountId(policy.owner), policy.issued_ms)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
@given(any_policy())
def test_policy_to_file_to_policy_is_the_same(policy: SubcloudPolicy) -> None:
    text = write_policy_file(policy)
    again = read_policy_file(text).policy(origin(policy))
    assert canonical_json(again) == canonical_json(policy), text
    assert write_policy_file(again) == text


def test_every_field_of_the_policy_has_its_field_in_the_file() -> None:
    def check(part: Part, beside: frozenset[str] = frozenset()) -> None:
        keys = [field.key for field in part.fields]
        assert len(set(keys)) == len(keys)
        assert set(keys) | beside == set(part.model.model_fields), part.model
        for field in part.fields:
            required = part.model.model_fields[field.key].is_required()
            assert field.required == required, (part.model, field.name)
            if isinstance(field.form, Part):
                check(field.form)
            else:
                assert bounds_of(part, field) is not None

    check(POLICY, ORIGIN_KEYS)
    assert issubclass(POLICY.model, StrictPart)


FULL = """\
name: eu-legal
expires: 365d
"""


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyFileError) as caught:
        read_policy_file(text)
    assert all("\n" not in problem.message for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("lines", "place", "said"),
    [
        ("cooldwn: 3d", (3, 1), "did you mean `cooldown`?"),
        ("models: {name: x}", (3, 10), "did you mean `names`?"),
        ("cooldown: 3", (3, 11), "a time like `90s`, `12h`, `30d`, not '3'"),
        ("cooldown: 91d", (3, 11), "at most 90d"),
        ("cooldown: 0.5s", (3, 11), "not a whole number of seconds"),
        ("members_max: 0", (3, 14), "at least 1"),
        ("members_max: 1e3", (3, 14), "a whole number"),
        ("isolate: yes", (3, 10), "`true` or `false`, not 'yes'"),
        ("contact: true", (3, 10), "quotation marks"),
        ("contact:", (3, 1), "not nothing"),
        ("join: [open]", (3, 7), "`semi-open` or `private`, not a list"),
        ("delegate_keys: abc", (3, 16), "is a list"),
        ("regions:\n  allow: [DE, Germany]", (4, 15), "two letters"),
        ("regions: {allow: [NO], deny: [NO]}", (3, 10), "both allowed and denied"),
        ("hardware:\n  gpu:\n    memory_min: 24 GB", (5, 17), "`24 GiB`"),
        ("service: {uptime_min: 99.555%}", (3, 23), "two decimals"),
        ("service: {uptime_min: 101%}", (3, 23), "at most 100%"),
        ("price: {input_max: -1}", (3, 20), "at most six decimals"),
        ("price: {input_max: 0.0000001}", (3, 20), "at most six decimals"),
        ("price: {input_max: .inf}", (3, 20), "credits"),
        ("price: {owner_fee: 60%}", (3, 20), "at most 50%"),
        ("models: {minimum_quantisation: Q5}", (3, 32), "no quantisation that can be compared"),
        ("models: {own: [{name: a}]}", (3, 16), "`digest` is missing"),
        ("models:\n  own:\n    - name: 'a b'", (5, 13), "a model's name"),
        ("callers: {accounts: [me]}", (3, 22), "acct-"),
        ("callers: {source_networks: [10.0.0.1/8]}", (3, 29), "host bits"),
        ("gateways: {peers: [12D3KooWxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx]}",
         (3, 20), "peer ID"),
        ("join: private", (3, 7), "needs delegate_keys"),
        ("callers:\n  tokens: true", (4, 11), "needs delegate_keys"),
        ("join: private\nfallback: global\ndelegate_keys: ['" + "d" * 64 + "']", (4, 11),
         "never leave"),
        ("a: &x 1\nb: *x", (3, 4), "aliases"),
        ("name: again", (3, 1), "twice (first in line 1)"),
        ("contact: a: b", (3, 11), "in quotes"),
        ("contact: 'x", (4, 1), "not closed"),
        ("\tcontact: x", (3, 1), "spaces"),
        ("contact: \x07", (3, 10), "U+0007"),
        ("contact: \"\\ud800\"", (3, 10), "surrogate"),
        ("---\nname: x", (3, 1), "one document"),
        ("contact: !!python/name:os.system x", (3, 10), "tags"),
        ("contact: '" + "x" * 501 + "'", (3, 10), "at most 500"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(
    lines: str, place: tuple[int, int], said: str
) -> None:
    line, column = place
    found = problems(FULL + lines + "\n")
    assert any(
        problem.startswith(f"line {line}, column {column}: ") and said in problem
        for problem in found
    ), found


def test_everything_is_told_at_once() -> None:
    found = problems(
        "expires: soon\njoin: private\nfallback: global\nregions: {allow: [de]}\n"
        "callers: {anyone: true, tokens: true}\nmodels:\n  own:\n    - {name: a, digest: x}\n"
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "line 1, column 1",  # no name
        "line 1, column 10",
        "line 2, column 7",
        "line 3, column 11",
        "line 4, column 19",
        "line 5, column 10",
        "line 8, column 7",
        "line 8, column 7",
        "line 8, column 7",
        "line 8, column 25",
    ], found


def test_a_wrong_field_is_not_told_as_missing_elsewhere() -> None:
    found = problems(FULL + "join: private\ndelegate_keys: [x]\n")
    assert found == ["line 4, column 17: `delegate_keys`: expected 64 digits 0-9 a-f, not 'x'"]


@pytest.mark.parametrize(
    "text",
    ["", "# nothing", "- a", "x", "a: " + "[" * 20, "a: [" + "1," * 30_000 + "]",
     "%YAML 1.1\n---\n", "x" * 300_000, "a: {<<: {b: 1}}",
     "? [a]\n: 1", "\ud800", "a: \x00", "{", "a: @", "'"],
)  # fmt: skip
def test_hostile_texts_are_refused_in_lines(text: str) -> None:
    assert problems(text)


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!#\"'\n %|>,?~<0x\t"), max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        read_policy_file(text)
    except PolicyFileError:
        return


def test_what_a_person_writes_is_short_and_exact() -> None:
    text = """\
name: eu-legal            # the 365 days count from the signing
expires: 365d
regions: {allow: [DE, NO]}
models:
  names: [llama-3.1-8b, {name: qwen, versions: [1.10]}]
price: {input_max: 0.25, output_max: "0.75", owner_fee: 2.5%}
service: {first_token_max: 1.5s, window: 1d}
hardware: {gpu: {kind: RTX, memory_min: 1.5 GiB}}
callers: {anyone: true}
"""
    policy = read_policy_file(text).policy(Origin(NETWORK, OWNER, 1000))
    assert policy.expires_ms - policy.issued_ms == 365 * 86_400_000
    assert policy.regions.allow == ("DE", "NO")
    assert policy.models.names[1].versions == ("1.10",)
    assert policy.price.input_microcredits_per_million_tokens_max == 250_000
    assert policy.price.owner_fee_basis_points == 250
    assert policy.service.first_token_ms_max == 1500
    assert policy.hardware.gpu is not None
    assert policy.hardware.gpu.memory_bytes_min == 3 * 2**29
    assert policy.models.verified_only


def test_a_date_is_held_against_the_clock_when_it_is_signed() -> None:
    file = read_policy_file("name: x\nexpires: 2027-01-01\n")
    policy = file.policy(Origin(NETWORK, OWNER, 1_700_000_000_000))
    assert policy.expires_ms == 1_798_761_600_000
    with pytest.raises(PolicyFileError, match="line 2, column 10: `expires`: that is over"):
        file.policy(Origin(NETWORK, OWNER, 1_800_000_000_000))
    assert problems("name: x\nexpires: 2027-02-30\n")


def test_a_name_stays() -> None:
    file = read_policy_file(FULL)
    before = a_policy("eu-law")
    origin = Origin(NETWORK, OWNER, 1, 2, "0" * 64, before.identity)
    with pytest.raises(
        PolicyFileError, match="line 1, column 7: the version before is of `eu-law`"
    ):
        file.policy(origin)


def test_kinds_write_what_they_read() -> None:
    def check(part: Part) -> None:
        for field in part.fields:
            if isinstance(field.form, Kind):
                assert "\n" not in field.form.what
            else:
                check(field.form)

    check(POLICY)
