"""The node checks again: offers of subclouds and of the global pool, with real policies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.agent.runtime_port import ModelFacts, ModelState
from p2p.errors import P2PError
from p2p.job_messages import AcceptFrame, EndFrame, Offer, OutputFrame, RefuseFrame
from p2p.limits import MEMBERSHIP_INTERVAL_S, POLICY_GRACE_S
from p2p.signing import open_signed
from p2p.subclouds.memberships import (
    MembershipCertificate,
    MembershipFrame,
    MembershipStatement,
    verify_memberships,
)
from tests.fakes.member_desk import MemberDesk
from tests.fakes.served_models import FakeModel
from tests.fakes.subcloud_owners import DIGESTS, HOUR_MS, OWN_MODEL
from tests.fakes.trust import GATEWAY, NETWORK, NODE, OTHER_GATEWAY

OTHER_SUBCLOUD = "other-" + "1" * 32


async def code_of(desk: MemberDesk, offer: Offer) -> str:
    """What the node says to one offer: a refusal's code, or nothing."""
    desk.received.clear()
    async with desk.session():
        desk.send_offer(offer)
        while not desk.of(RefuseFrame) and not desk.of(AcceptFrame):
            await desk.heard()
        return next((frame.code for frame in desk.of(RefuseFrame)), "")


async def test_a_job_of_the_subcloud(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path)
    desk.publish(price={"owner_fee_basis_points": 100})
    desk.manager.evaluate()
    async with desk.session():
        offer = desk.subcloud_offer()
        desk.send_offer(offer)
        desk.send_voucher(offer)
        await desk.next(AcceptFrame)
        await desk.settle()
        desk.runtime.sink.on_output((1,), "a")
        desk.runtime.sink.on_end("stop", "")
        await desk.next(OutputFrame)
        assert (await desk.next(EndFrame)).outcome == "stop"


async def test_a_voucher_for_other_terms_pays_for_nothing(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path)
    desk.publish()
    desk.manager.evaluate()
    async with desk.session():
        offer = desk.subcloud_offer()
        desk.send_offer(offer)
        desk.send_voucher(offer, terms=desk.offer().terms)  # of the global pool
        end = await desk.next(EndFrame)
        assert end.outcome == "failed"
        assert desk.runtime.sinks == {}


@pytest.mark.parametrize(
    ("policy", "changes", "code"),
    [
        ({"gateways": {"peers": [OTHER_GATEWAY.peer_id]}}, {}, "gateway_not_admitted"),
        ({"gateways": {"accounts": ["acct-" + "b" * 40]}}, {}, "gateway_not_admitted"),
        ({}, {"model_digest": bytes(32)}, "model_not_served"),
    ],
)
async def test_what_the_policy_does_not_allow(
    tmp_path: Path, policy: dict[str, Any], changes: dict[str, Any], code: str
) -> None:
    desk = MemberDesk(tmp_path)
    desk.publish(**policy)
    desk.manager.evaluate()
    offer = replace(desk.subcloud_offer(), **changes)
    assert await code_of(desk, offer) == code


async def test_terms_that_are_not_those_of_the_policy(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path)
    known = desk.publish(price={"owner_fee_basis_points": 100})
    desk.manager.evaluate()
    good = desk.subcloud_offer()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"owner_fee_basis_points": 0}, "price"),
        ({"input_microcredits_per_million_tokens": 1}, "price"),
        ({"model_name": "another"}, "price"),
        ({"configuration_version": 9}, "price"),
        ({"policy_digest": bytes(32)}, "policy_unknown"),
        ({"subcloud_id": OTHER_SUBCLOUD}, "not_member"),
        ({"subcloud_id": ""}, "price"),
    ]
    for fields, code in cases:
        terms = replace(good.terms, **fields)
        assert await code_of(desk, replace(good, terms=terms)) == code, fields
    assert desk.manager.wanted == {known.identity}
    assert await code_of(desk, replace(good, maximum=good.maximum - 1)) == "price"
    assert await code_of(desk, good) == ""


async def test_without_a_membership_nothing_of_the_subcloud_runs(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path, auto_join=())
    desk.publish()
    desk.manager.evaluate()
    assert await code_of(desk, desk.subcloud_offer()) == "not_member"
    assert await code_of(desk, desk.offer()) == ""


async def test_a_new_version_counts_at_once_and_the_old_one_for_its_grace(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path)
    old = desk.publish()
    desk.manager.evaluate()
    new = desk.publish(contact="new")
    assert await code_of(desk, desk.subcloud_offer(known=old)) == ""
    assert await code_of(desk, desk.subcloud_offer(known=new)) == ""
    desk.clock.now_ms += int(POLICY_GRACE_S * 1000)
    assert await code_of(desk, desk.subcloud_offer(known=old)) == "policy_unknown"
    assert await code_of(desk, desk.subcloud_offer(known=new)) == ""


async def test_a_gateway_that_a_new_version_drops_is_refused_within_the_grace(
    tmp_path: Path,
) -> None:
    desk = MemberDesk(tmp_path)
    old = desk.publish()
    desk.manager.evaluate()
    desk.publish(gateways={"peers": [OTHER_GATEWAY.peer_id]})
    assert await code_of(desk, desk.subcloud_offer(known=old)) == "gateway_not_admitted"


async def test_a_version_that_is_a_fork_or_is_old_changes_nothing(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path)
    first = desk.publish()
    desk.publish(contact="second")
    desk.manager.evaluate()
    for record in (first.record, desk.owner.forked(desk.clock())):
        with pytest.raises(P2PError):
            desk.policies.offer(record)
    desk.manager.evaluate()
    assert {found.kind for found in desk.policies.evidence} >= {"fork"}
    assert await code_of(desk, desk.subcloud_offer()) == ""


async def test_what_has_ended_or_expired_runs_nowhere(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path)
    desk.publish()
    desk.manager.evaluate()
    offer = desk.subcloud_offer()
    desk.clock.now_ms += HOUR_MS
    late = replace(offer, deadline_ms=desk.clock.now_ms + 60_000)
    assert await code_of(desk, late) == "policy_over"
    desk.clock.now_ms -= HOUR_MS
    desk.publish(ended=True)
    assert await code_of(desk, offer) == "not_member"  # it left


async def test_a_member_without_its_model_is_suspended(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path)
    desk.publish()
    desk.manager.evaluate()
    desk.model.state = ModelState.INACTIVE
    desk.manager.evaluate()
    assert await code_of(desk, desk.subcloud_offer()) == "suspended"


# --- isolation ----------------------------------------------------------------------------------
async def test_an_isolated_node_refuses_global_jobs_and_finishes_those_that_run(
    tmp_path: Path,
) -> None:
    desk = MemberDesk(tmp_path)
    desk.settings = replace(desk.settings, isolate=desk.owner.identity)
    desk.restart()
    async with desk.session():
        running = desk.offer()
        desk.send_offer(running)
        desk.send_voucher(running)
        await desk.next(AcceptFrame)
        await desk.settle()
        known = desk.publish(isolate=True)
        desk.manager.evaluate()
        assert desk.agent.subclouds.isolated == known.identity
        desk.send_offer(desk.offer(2), 2)
        assert (await desk.next(RefuseFrame)).code == "isolated"
        desk.runtime.sink.on_output((1,), "a")
        desk.runtime.sink.on_end("stop", "")
        assert (await desk.next(EndFrame)).outcome == "stop"
        inside = desk.subcloud_offer(3)
        desk.send_offer(inside, 3)
        await desk.next(AcceptFrame, 2)


async def test_isolation_outlives_a_restart_and_ends_with_the_policy(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path)
    desk.settings = replace(desk.settings, isolate=desk.owner.identity)
    desk.restart()
    desk.publish(isolate=True)
    desk.manager.evaluate()
    policies, desk.policies = desk.policies, type(desk.policies)(NETWORK, clock_ms=desk.clock)
    desk.restart()  # before anything was evaluated, and without the policy
    assert await code_of(desk, desk.offer()) == "isolated"
    desk.policies = policies
    desk.restart()
    assert await code_of(desk, desk.offer()) == "isolated"
    desk.publish(isolate=False)
    assert await code_of(desk, desk.offer()) == ""


async def test_auto_join_never_isolates(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path)
    desk.publish(isolate=True)
    desk.manager.evaluate()
    assert desk.manager.kept.memberships == {}
    assert await code_of(desk, desk.offer()) == ""


# --- a policy's own models ------------------------------------------------------------------------
async def test_a_model_that_only_the_policy_approves(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path)
    facts = ModelFacts("tuned", DIGESTS[3], bytes(32), "Q8_0")
    desk.models.list.append(FakeModel(desk.runtime, facts=facts))
    assert desk.manager.own_model(DIGESTS[3]) is None
    desk.publish(models={"own": [OWN_MODEL.model_dump()]})
    desk.manager.evaluate()
    assert desk.manager.own_model(DIGESTS[3]) is not None
    inside = desk.subcloud_offer(model_digest=DIGESTS[3])
    assert inside.terms.input_microcredits_per_million_tokens == 7_000_000
    assert await code_of(desk, inside) == ""
    outside = replace(desk.offer(), model_digest=DIGESTS[3], terms=inside.terms)
    blank = replace(outside.terms, subcloud_id="", policy_digest=b"", owner_fee_basis_points=0)
    assert await code_of(desk, replace(outside, terms=blank)) == "model_not_served"
    assert await code_of(desk, desk.subcloud_offer()) == "model_not_admitted"
    desk.manager.settings = replace(desk.manager.settings, auto_join=())
    desk.manager.evaluate()
    assert desk.manager.own_model(DIGESTS[3]) is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_only_the_exact_terms_of_the_policy_pass(tmp_path: Path, data: st.DataObject) -> None:
    from node.agent.offer_rules import Capacity, check_offer
    from node.agent.subcloud_offers import Place
    from p2p.certificates import verify_chain
    from p2p.errors import RefusedError
    from tests.fakes.trust import gateway_chain

    desk = MemberDesk(tmp_path / "m")
    desk.publish(price={"owner_fee_basis_points": 100})
    desk.manager.evaluate()
    good = desk.subcloud_offer()
    other: dict[str, st.SearchStrategy[Any]] = {
        "input_microcredits_per_million_tokens": st.integers(0, 10**7),
        "output_microcredits_per_million_tokens": st.integers(0, 10**7),
        "configuration_version": st.integers(1, 3),
        "model_name": st.sampled_from([good.terms.model_name, "x"]),
        "subcloud_id": st.sampled_from([good.terms.subcloud_id, OTHER_SUBCLOUD, ""]),
        "policy_digest": st.sampled_from([good.terms.policy_digest, bytes(32), b""]),
        "owner_fee_basis_points": st.integers(0, 200),
    }
    names = data.draw(st.sets(st.sampled_from(sorted(other)), max_size=3))
    changed: dict[str, Any] = {name: data.draw(other[name]) for name in sorted(names)}
    terms = replace(good.terms, **changed)
    identity = terms.subcloud_id
    joined = desk.manager.joined(identity) if identity else None
    gateway = verify_chain(gateway_chain(), NETWORK, GATEWAY.peer_id, desk.clock())
    try:
        check_offer(
            replace(good, terms=terms, maximum=10**12),
            node_id=NODE.peer_id,
            gateway_id=GATEWAY.peer_id,
            gateway=gateway,
            configuration=desk.book.current,
            model_digest=good.model_digest,
            capacity=Capacity(0, 2, True, False),
            now_ms=desk.clock(),
            place=Place(desk.manager.isolated, joined),
        )
    except RefusedError:
        assert terms != good.terms
    else:
        assert terms == good.terms or terms == desk.offer().terms


# --- statements -----------------------------------------------------------------------------------
def statement_in(frame: MembershipFrame) -> MembershipStatement:
    return open_signed(frame.statement, MembershipStatement, NETWORK)


async def test_sessions_hear_the_statement_at_their_begin_and_at_each_change(
    tmp_path: Path,
) -> None:
    desk = MemberDesk(tmp_path)
    async with desk.session():
        desk.manager.evaluate()
        await desk.settle()
        assert desk.of(MembershipFrame) == []  # nothing was ever said: nothing is
        known = desk.publish()
        desk.manager.evaluate()
        first = await desk.next(MembershipFrame)
        seen = verify_memberships(first.statement, NETWORK, desk.clock())
        (membership,) = seen.statement.memberships
        assert membership.policy_digest.hex() == known.digest
        desk.manager.evaluate()
        await desk.settle()
        assert len(desk.of(MembershipFrame)) == 1
        desk.clock.now_ms += int(MEMBERSHIP_INTERVAL_S * 1000)
        desk.manager.evaluate()
        again = await desk.next(MembershipFrame, 2)
        assert statement_in(again).sequence > seen.statement.sequence
        desk.publish(ended=True)
        desk.manager.evaluate()
        last = await desk.next(MembershipFrame, 3)
        assert statement_in(last).memberships == ()
    async with desk.session():
        await desk.settle()
        assert statement_in(desk.of(MembershipFrame)[-1]).memberships == ()


async def test_a_certificate_bounds_how_many_jobs_run_at_once(tmp_path: Path) -> None:
    desk = MemberDesk(tmp_path)
    known = desk.publish(join="semi-open")
    desk.policies.offer_revocations(desk.owner.revocation_list(desk.clock()))
    now_ms = desk.clock()
    document = MembershipCertificate(
        bytes(16), known.identity, NODE.peer_id, now_ms, now_ms + 600_000, slots_max=1
    )
    desk.manager.certificates[known.identity] = (desk.owner.delegate.sign(NETWORK, document),)
    desk.manager.evaluate()
    async with desk.session():
        first = desk.subcloud_offer()
        desk.send_offer(first)
        desk.send_voucher(first)
        await desk.next(AcceptFrame)
        desk.send_offer(desk.subcloud_offer(2), 2)
        assert (await desk.next(RefuseFrame)).code == "busy"
        desk.send_offer(desk.offer(3), 3)  # the global pool has the other slot
        await desk.next(AcceptFrame, 2)
        await desk.settle()
        desk.runtime.sinks[1].on_output((1,), "a")
        desk.runtime.sinks[1].on_end("stop", "")
        await desk.next(EndFrame)
        assert desk.agent.subcloud_jobs == {}
        desk.send_offer(desk.subcloud_offer(4), 4)
        await desk.next(AcceptFrame, 3)
    assert desk.agent.subcloud_jobs == {}
    assert desk.model.jobs == 0
