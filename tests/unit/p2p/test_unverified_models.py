"""Unverified models in the configuration, in adverts, in the choice of a node."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pydantic
import pytest

from gateway.peer.routing import Candidate, Wanted, choose
from p2p.adverts import ModelAdvert
from p2p.allowed_terms import AllowedTerms
from p2p.approved_models import UNVERIFIED_MODELS_MAX, UnverifiedModel, unverified_digest
from p2p.codec import decode_message, encode_message
from p2p.network_configuration import NetworkConfiguration, price_terms
from p2p.types import NetworkId
from tests.fakes import trust
from tests.fakes.gateway_world import MODEL_ADVERT

TERMS = {
    "context_tokens": 4096,
    "input_microcredits_per_million_tokens": 5,
    "output_microcredits_per_million_tokens": 7,
}
BIG = UnverifiedModel(name="big", **TERMS)  # type: ignore[arg-type]


def configuration(**fields: Any) -> NetworkConfiguration:
    common = {"network_id": trust.NETWORK, "version": 1, "issued_ms": 1, "models": (trust.MODEL,)}
    return NetworkConfiguration(**{"unverified_models": (BIG,), **common, **fields})


def test_it_is_found_by_name_and_by_the_digest_that_stands_for_it() -> None:
    current = configuration()
    found = current.model_named("big")
    assert found is not None
    assert not found.verified
    data = b"\0".join((b"resultity/unverified-model", trust.NETWORK.encode(), b"big"))
    assert bytes.fromhex(found.digest) == hashlib.sha256(data).digest()
    assert current.model_with_digest(bytes.fromhex(found.digest)) == found
    assert current.models == (trust.MODEL,)
    assert current.all_models == (trust.MODEL, found)
    assert unverified_digest(NetworkId("other-" + "0" * 32), "big").hex() != found.digest
    terms = price_terms(current, found)
    assert AllowedTerms(lambda: current).model_for(terms, 0) == found


def test_its_digest_is_not_written_and_not_believed() -> None:
    current = configuration()
    text = current.model_dump_json()
    assert "digest" not in json.loads(text)["unverified_models"][0]
    assert NetworkConfiguration.model_validate_json(text) == current
    given = {"name": "big", "digest": trust.MODEL.digest, **TERMS}
    read = configuration(unverified_models=(given,))
    assert read.model_with_digest(trust.MODEL_DIGEST) == trust.MODEL
    assert read.model_named("big") == current.model_named("big")


def test_older_configurations_list_none() -> None:
    document = json.loads(configuration().model_dump_json())
    del document["unverified_models"]
    assert NetworkConfiguration.model_validate(document).unverified_models == ()


@pytest.mark.parametrize(
    "entries",
    [
        [{"name": "big", **TERMS}, {"name": "big", **TERMS}],
        [{"name": trust.MODEL.name, **TERMS}],
        [{"name": "no name", **TERMS}],
        [{"name": "big", **TERMS, "modalities": ["image"]}],
        [{"name": "big", **TERMS, "modalities": ["sound"]}],
        [{"name": f"m{n}", **TERMS} for n in range(UNVERIFIED_MODELS_MAX + 1)],
    ],
)
def test_what_is_refused(entries: list[dict[str, Any]]) -> None:
    with pytest.raises(pydantic.ValidationError):
        configuration(unverified_models=entries)


def test_an_advert_of_a_verified_model_is_encoded_as_before() -> None:
    unverified = replace(MODEL_ADVERT, verified=False)
    assert decode_message(encode_message(unverified), ModelAdvert) == unverified
    plain = encode_message(MODEL_ADVERT)
    assert decode_message(plain, ModelAdvert).verified
    assert len(plain) < len(encode_message(unverified))


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("is_verified", [True, False])
def test_a_node_that_says_otherwise_is_offered_nothing(says: bool, is_verified: bool) -> None:
    candidate = Candidate(trust.NODE.peer_id, trust.MODEL_DIGEST, trust.MODEL_ID, 1024, 1)
    candidate.connected, candidate.verified = True, says
    wanted = Wanted(trust.MODEL_DIGEST, 10, verified=is_verified)
    choice = choose(wanted, [candidate], tried=(), now_s=0.0, now_ms=0)
    assert (choice.candidate is candidate) is (says is is_verified)
