"""What an advert says of the machine and of the mode of each model."""

from __future__ import annotations

import dataclasses

import pytest

from node.hardware import detect_hardware, with_gpus
from node.runtime_messages import GpuFact
from p2p.adverts import Advert, ModelAdvert
from p2p.codec import decode_message, encode_message
from p2p.errors import MalformedError
from p2p.hardware import GpuHardware, Hardware
from p2p.signing import Signed

MODEL = ModelAdvert("m", bytes(32), bytes(32), 1024, "q4_0", 4, ("chat",), ("text",))
ADVERT = Advert(
    "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp",  # type: ignore[arg-type]
    1,
    0,
    1,
    (Signed(b"", bytes(32), bytes(64)),),
    (),
    (MODEL,),
    "resultity/1",
)


def test_adverts_without_hardware_are_what_they_were() -> None:
    said = dataclasses.replace(ADVERT, hardware=with_gpus(detect_hardware(), [GpuFact("g", 5)]))
    assert decode_message(encode_message(said), Advert) == said
    assert said.hardware is not None
    assert said.hardware.gpus == (GpuHardware("g", 5),)
    assert decode_message(encode_message(ADVERT), Advert).hardware is None
    assert len(encode_message(ADVERT)) < len(encode_message(said))


def test_a_models_mode_is_left_out_where_it_is_not_known() -> None:
    known = dataclasses.replace(MODEL, mode="reproducible")
    assert decode_message(encode_message(known), ModelAdvert).mode == "reproducible"
    assert b"reproducible" not in encode_message(MODEL)
    assert decode_message(encode_message(MODEL), ModelAdvert).mode == ""


def test_what_is_declared_is_bounded() -> None:
    fine = Hardware("c", 1, 1, 1, "s", (GpuHardware("g", 1),) * 16)
    assert decode_message(encode_message(fine), Hardware) == fine
    for changes in (
        {"cpu": "x" * 129},
        {"cores": -1},
        {"memory_bytes": 2**60},
        {"gpus": (GpuHardware("g", 1),) * 17},
    ):
        with pytest.raises(MalformedError):
            decode_message(encode_message(dataclasses.replace(fine, **changes)), Hardware)  # type: ignore[arg-type]
