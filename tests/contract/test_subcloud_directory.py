"""The directory of subclouds at bootstraps: what it takes, keeps, and shares through a database."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from p2p.errors import ForkError, StaleError, UntrustedError
from p2p.subcloud_rules import AssignedLabel, SubcloudRules
from tests.fakes.clocks import FakeClock
from tests.fakes.ledger_world import key_pair
from tests.fakes.policy_owners import PolicyOwner, revocation_list
from tests.fakes.subcloud_desk import (
    SubcloudDesk,
    open_desk,
    refused,
)
from tests.fakes.trust import GATEWAY, NODE

DAY_S = 86_400


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """Where the kind of database makes no difference."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


# --- policies -------------------------------------------------------------------------------------
async def test_a_restart_and_another_bootstrap_have_everything(url: str) -> None:
    owner = PolicyOwner(1)
    first = owner.record(join="semi-open")
    second = owner.record(after=first, join="semi-open", contact="x")
    async with open_desk(url) as desk, open_desk(url) as beside:
        await desk.found(owner)
        ask = desk.as_peer()
        assert (await ask.publish(first)).label == "team"
        assert (await ask.publish(second)).version == 2
        assert (await ask.publish(second)).version == 2  # again: nothing happens
        await ask.put_revocations(revocation_list(owner.identity(), 5))
        with pytest.raises(ForkError):
            await ask.publish(owner.record(after=first, join="semi-open", contact="fork"))
        with pytest.raises(StaleError):
            await ask.publish(first)
        # The other bootstrap on the same database has it with its next look.
        await beside.parts.registry.catch_up()
        assert (await beside.as_peer().get("team"))[0] == second
        # It was told of version 2 only: what it is offered is judged against that.
        with pytest.raises(ForkError):
            await beside.as_peer().publish(
                owner.record(after=first, join="semi-open", contact="other")
            )
    async with open_desk(url) as again:
        ask = again.as_peer()
        record, revocations = await ask.get(owner.identity())
        assert record == second
        assert revocations == revocation_list(owner.identity(), 5)
        assert (await ask.get("team", 1))[0] == first
        assert await ask.history("team") == [second, first]
        assert await ask.history("team", 2) == [first]
        assert (await ask.resolve("team")).revocations_number == 5
        found = [item.kind for item in await ask.evidence("team")]
        assert sorted(found) == ["fork", "fork", "older"]
        await refused("unknown_subcloud", ask.get("nobody"))
        await refused("unknown_subcloud", ask.get("team", 7))


async def test_two_bootstraps_never_keep_both_of_two_second_versions(url: str) -> None:
    owner = PolicyOwner(1)
    first = owner.record()
    rivals = [owner.record(after=first, contact=f"{number}") for number in range(2)]
    results: list[object] = []
    async with open_desk(url) as one, open_desk(url) as two:
        await one.found(owner)
        await one.as_peer().publish(first)
        await two.parts.registry.catch_up()

        async def publish(desk: SubcloudDesk, number: int) -> None:
            try:
                results.append(await desk.as_peer().publish(rivals[number]))
            except UntrustedError as error:
                results.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish, one, 0)
            nursery.start_soon(publish, two, 1)
        assert sum(isinstance(result, ForkError) for result in results) == 1
        for desk in (one, two):
            await desk.parts.registry.catch_up()
        assert (await one.as_peer().get("team"))[0] == (await two.as_peer().get("team"))[0]
        assert [item.kind for item in await one.as_peer().evidence()] == ["fork"]


async def test_names_go_to_the_first_but_for_the_authority_s_word(url: str) -> None:
    first, second = PolicyOwner(1), PolicyOwner(2)
    async with open_desk(url) as desk:
        await desk.found(first, second)
        desk.rules = SubcloudRules(reserved_labels=("kept",))
        ask = desk.as_peer()
        assert (await ask.publish(first.record())).label == "team"
        assert (await ask.publish(second.record())).label == ""
        assert (await ask.publish(first.record("kept"))).label == ""
        assert (await ask.publish(first.record("global"))).label == ""
        assert (await ask.resolve("team")).subcloud_id == first.identity()
        assert (await ask.resolve(second.identity())).subcloud_id == second.identity()
        await refused("unknown_subcloud", ask.resolve("kept"))
        assigned = AssignedLabel(label="team", subcloud_id=second.identity())
        desk.rules = SubcloudRules(assigned_labels=(assigned,))
        assert (await ask.resolve("team")).subcloud_id == second.identity()
        assert (await ask.resolve(first.identity())).label == ""


async def test_creation_follows_the_network_s_rule(sqlite: str) -> None:
    owner, staked = PolicyOwner(1), set()

    async def has_stake(identity: str, microcredits: int) -> bool:
        return (identity, microcredits) in staked

    async with open_desk(sqlite, has_stake=has_stake) as desk:
        await desk.found(owner)
        ask, record = desk.as_peer(), owner.record()
        desk.rules = SubcloudRules(creation="approval")
        await refused("subcloud_creation", ask.publish(record))
        desk.rules = SubcloudRules(creation="stake", stake_microcredits=5)
        assert "stake of 5" in str(await refused("subcloud_creation", ask.publish(record)))
        staked.add((owner.identity(), 5))
        await ask.publish(record)
        # What is there goes on, whatever the rule of creation is now; a ban ends it.
        desk.rules = SubcloudRules(creation="approval")
        second = owner.record(after=record)
        await ask.publish(second)
        desk.rules = SubcloudRules(banned=(owner.identity(),))
        await refused("subcloud_banned", ask.publish(owner.record(after=second)))


async def test_only_a_key_that_the_account_has_now_publishes(sqlite: str) -> None:
    owner, stranger = PolicyOwner(1), PolicyOwner(3)
    async with open_desk(sqlite) as desk:
        await desk.found(owner)
        ask = desk.as_peer()
        await refused("owner_unknown", ask.publish(stranger.record()))
        first = owner.record()
        await ask.publish(first)
        stolen, short = owner.key, owner.proof()
        await desk.ledger.submit(owner.replace_key())
        # Its proof does not say that it was removed; the ledger does.
        late = owner.record(after=first, signer=stolen, proof=short)
        await refused("owner_key", ask.publish(late))
        assert [item.kind for item in await ask.evidence("team")] == ["foreign"]
        renewed = await ask.publish(owner.record())
        assert (renewed.version, renewed.proof_length) == (1, 1)
        third = key_pair(8998)
        from tests.fakes.account_world import key_change

        change = key_change(owner.world, owner.tenant, 2, added=(third,), signer=owner.key)
        before = owner.proof()
        await desk.ledger.submit(change)
        owner.changes.append(change)
        await refused("owner_proof", ask.publish(owner.record(after=first, proof=before)))
        assert (await ask.publish(owner.record(after=first))).version == 2


async def test_one_account_founds_so_many_in_a_day(sqlite: str, monkeypatch) -> None:
    from bootstrap.subclouds import publishing

    monkeypatch.setattr(publishing, "SUBCLOUDS_FOUNDED_PER_OWNER_AND_DAY_MAX", 2)
    clock, owner = FakeClock(), PolicyOwner(1)
    async with open_desk(sqlite, clock) as desk:
        await desk.found(owner)
        for label in ("one", "two"):
            await desk.as_peer().publish(owner.record(label))
        await refused("too_many_subclouds", desk.as_peer().publish(owner.record("three")))
        clock.advance(DAY_S + 1)
        await desk.as_peer().publish(owner.record("three"))


async def test_the_list_tells_changes_in_their_order_and_in_pages(sqlite: str, monkeypatch) -> None:
    from bootstrap.subclouds import registry

    monkeypatch.setattr(registry, "SUBCLOUDS_PER_PAGE_MAX", 2)
    owner = PolicyOwner(1)
    async with open_desk(sqlite) as desk:
        await desk.found(owner)
        ask = desk.as_peer()
        records = [owner.record(label) for label in ("one", "two", "three")]
        for record in records:
            await ask.publish(record)
        page = await ask.page()
        assert ([s.label for s in page.summaries], page.more) == (["one", "two"], True)
        page = await ask.page(page.cursor)
        assert ([s.label for s in page.summaries], page.more) == (["three"], False)
        await ask.publish(owner.record(after=records[0]))
        page = await ask.page(page.cursor)
        assert [(s.label, s.version) for s in page.summaries] == [("one", 2)]
        assert not (await ask.page(page.cursor)).summaries
        # A number of another process (a bootstrap that was restarted) means nothing here.
        assert len((await ask.page("other:99")).summaries) == 2


async def test_one_peer_cannot_write_for_ever(sqlite: str, monkeypatch) -> None:
    from bootstrap.subclouds import answers

    monkeypatch.setattr(answers, "SUBCLOUD_WRITES_BURST_PER_PEER", 3.0)
    owner = PolicyOwner(1)
    async with open_desk(sqlite) as desk:
        await desk.found(owner)
        ask = desk.as_peer()
        for label in ("one", "two", "three"):
            await ask.publish(owner.record(label))
        refusal = await refused("subcloud_rate", ask.publish(owner.record("four")))
        assert refusal.retry_after_s
        await desk.as_peer(NODE).publish(owner.record("four"))
        assert GATEWAY.peer_id != NODE.peer_id


async def test_a_mirror_follows_and_tries_again_what_its_copy_of_the_ledger_lacks(tmp_path) -> None:
    owner = PolicyOwner(1)
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("primary", "mirror")]
    async with open_desk(urls[0]) as primary, open_desk(urls[1]) as mirror:
        await primary.found(owner)
        first = owner.record(join="private")
        await primary.as_peer().publish(first)

        class Link:
            bootstrap = GATEWAY.peer_id

            async def call(self, method: str, body: bytes) -> bytes:
                return await primary.as_peer()._link.call(method, body)

        await mirror.parts._follower.step(Link())
        await refused("unknown_subcloud", mirror.as_peer().get("team"))
        await mirror.found(owner)  # now its copy has grown
        await mirror.parts._follower.step(Link())
        assert (await mirror.as_peer().get("team"))[0] == first
        await primary.as_peer().publish(owner.record(after=first, join="private"))
        await primary.as_peer().put_revocations(revocation_list(owner.identity(), 1))
        await mirror.parts._follower.step(Link())
        followed = await mirror.as_peer().resolve("team")
        assert (followed.version, followed.revocations_number) == (2, 1)


async def test_one_subcloud_is_not_changed_all_the_time_and_old_versions_go(
    sqlite: str, monkeypatch
) -> None:
    from bootstrap.subclouds import answers
    from ledger.store import directory_store

    monkeypatch.setattr(answers, "POLICIES_BURST_PER_SUBCLOUD", 2.0)
    monkeypatch.setattr(directory_store, "POLICY_VERSIONS_KEPT_MAX", 2)
    owner = PolicyOwner(1)
    async with open_desk(sqlite) as desk:
        await desk.found(owner)
        records = [owner.record()]
        for _ in range(3):
            records.append(owner.record(after=records[-1]))
        ask = desk.as_peer()
        for record in records[:3]:
            await ask.publish(record)
            await ask.publish(record)  # who says it again changes nothing
        await refused("subcloud_rate", ask.publish(records[3]))
        assert await ask.history("team") == [records[2], records[1]]
        await ask.publish(owner.record("other"))


async def test_nobody_else_uses_up_what_an_owner_may_change(sqlite: str, monkeypatch) -> None:
    """Junk, forks and old versions in a subcloud's name must not keep its next ban out."""
    from bootstrap.subclouds import answers

    monkeypatch.setattr(answers, "POLICIES_BURST_PER_SUBCLOUD", 1.0)
    monkeypatch.setattr(answers, "REVOCATION_LISTS_BURST_PER_SUBCLOUD", 2.0)
    owner, rival = PolicyOwner(1), PolicyOwner(2)
    identity = owner.identity()
    async with open_desk(sqlite) as desk:
        await desk.found(owner, rival)
        attacker, ask = desk.as_peer(NODE), desk.as_peer()
        first = owner.record(join="private")
        second = owner.record(after=first, join="private")
        await ask.publish(first)
        old = revocation_list(identity, 1)
        await ask.put_revocations(old)
        for number in range(2, 7):
            junk = revocation_list(identity, number, signer=rival.key)
            with pytest.raises(UntrustedError):
                await attacker.put_revocations(junk)
            with pytest.raises(UntrustedError):
                await attacker.publish(owner.record(after=first, signer=rival.key))
        await ask.put_revocations(revocation_list(identity, 2, NODE.peer_id))
        with pytest.raises(StaleError):
            await attacker.put_revocations(old)
        await ask.publish(second)
        assert desk.parts.book.revocations(identity).banned_peers == (NODE.peer_id,)
        await refused("subcloud_rate", ask.put_revocations(revocation_list(identity, 3)))
