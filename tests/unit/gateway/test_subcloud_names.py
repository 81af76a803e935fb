"""What names of subclouds mean at a gateway, and what guessing them costs."""

from __future__ import annotations

import pytest

from gateway.errors import SubcloudClosedError, SubcloudUnavailableError, SubcloudUnknownError
from gateway.jobs import ChatJob, RequestSize
from gateway.subclouds.names import GLOBAL_NAME, Names
from gateway.subclouds.placing import names_in
from p2p.errors import P2PError, PeerUnavailableError, RefusedError
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.index import GLOBAL_POOL
from p2p.subclouds.records import KnownPolicy
from tests.fakes.ledger import api_key
from tests.fakes.member_nodes import known_policy
from tests.fakes.subclouds import a_policy


class Source:
    """Knows some names; the network knows others, or answers with an error."""

    def __init__(self) -> None:
        self.here: dict[str, SubcloudId] = {}
        self.there: dict[str, KnownPolicy] = {}
        self.error: P2PError | None = None
        self.asked: list[str] = []
        self.now_s = 0.0
        self.names = Names(self, self.fetch, now_s=lambda: self.now_s)

    def resolve(self, name: str) -> SubcloudId | None:
        return self.here.get(name)

    async def fetch(self, name: str) -> KnownPolicy:
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        if name not in self.there:
            raise RefusedError("unknown_subcloud", f"there is no subcloud {name}")
        return self.there[name]


async def test_known_names_cost_nothing_and_others_are_asked_for() -> None:
    source, policy = Source(), known_policy(a_policy())
    source.here["team"] = policy.identity
    source.there["late"] = policy
    assert await source.names.resolve("team") == policy.identity
    assert await source.names.resolve(GLOBAL_NAME) == GLOBAL_POOL
    assert not source.asked
    assert await source.names.resolve("late") == policy.identity
    assert source.asked == ["late"]


async def test_guessing_a_name_again_and_again_does_not_reach_the_bootstrap() -> None:
    source = Source()
    for _ in range(3):
        with pytest.raises(SubcloudUnknownError, match="Name one by its label or its ID"):
            await source.names.resolve("nobody")
    assert source.asked == ["nobody"]
    source.now_s = 5.0
    with pytest.raises(SubcloudUnknownError):
        await source.names.resolve("nobody")
    assert len(source.asked) == 2
    with pytest.raises(SubcloudUnknownError):
        await source.names.resolve("x" * 10_000)
    assert len(source.asked) == 2


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PeerUnavailableError("nobody answers"), SubcloudUnavailableError),
        (RefusedError("subcloud_banned", "banned"), SubcloudClosedError),
    ],
)
async def test_what_is_not_an_unknown_name_is_not_told_as_one(
    error: P2PError, told: type[Exception]
) -> None:
    source = Source()
    source.error = error
    for _ in range(2):
        with pytest.raises(told):
            await source.names.resolve("team")
    assert len(source.asked) == 2  # it may be there in a moment


def a_job(model: str, subcloud: str = "") -> ChatJob:
    return ChatJob(
        job_id=bytes(16),
        key=api_key(),
        model=model,
        request=b"{}",
        body_hash=bytes(32),
        streaming=False,
        size=RequestSize(1, 1),
        max_tokens=None,
        seed=0,
        subcloud=subcloud,
    )


def test_an_address_is_what_stands_behind_the_last_at_sign() -> None:
    assert names_in(a_job("tiny")) == ("tiny", [])
    assert names_in(a_job("tiny@team")) == ("tiny", ["team"])
    assert names_in(a_job("org/tiny:q4@team", "other")) == ("org/tiny:q4", ["team", "other"])
    assert names_in(a_job("tiny", "other")) == ("tiny", ["other"])
    for model in ("tiny@", "@team", "@"):
        with pytest.raises(SubcloudUnknownError):
            names_in(a_job(model))
