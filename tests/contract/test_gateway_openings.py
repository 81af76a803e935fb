"""A gateway carries the opening of an account: with the client's network, and with the refusal."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from ledger import methods
from p2p.account_file import create_account
from p2p.codec import decode_message, encode_message
from p2p.errors import RefusedError
from p2p.opening_messages import CarriedFounding
from p2p.signing import Signed, open_signed
from tests.fakes import trust
from tests.fakes.gateway_world import GatewayWorld

URL = "/resultity/v1/ledger/operation"


async def test_openings_are_wrapped_and_refusals_say_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = GatewayWorld(tmp_path, nodes=1)
    founding = create_account(trust.NETWORK, world.clock_ms, bytes(16))[0].founding
    carried: list[bytes] = []

    async def call(_: object, method: str, body: bytes, *more: object, **options: object) -> bytes:
        if method != methods.OPERATION:
            return b""
        carried.append(body)
        if len(carried) == 1:
            return b"done"
        raise RefusedError("opening_limit", "those are taken", 12.3)

    monkeypatch.setattr("p2p.uplink.Uplink.call", call)
    async with world.run() as client:
        body = {"signed": base64.b64encode(encode_message(founding)).decode()}
        answer = await client.post(URL, json=body)
        assert base64.b64decode(answer.json()["result"]) == b"done"
        refused = await client.post(URL, json=body)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "13")
    assert refused.json()["error"]["code"] == "opening_limit"
    wrapper = decode_message(carried[0], Signed)
    document = open_signed(wrapper, CarriedFounding, trust.NETWORK)
    assert wrapper.peer_id == trust.GATEWAY.peer_id
    assert (document.opening, document.source_network) == (founding, "127.0.0.0/24")
