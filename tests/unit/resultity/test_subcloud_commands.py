"""The owner's commands, against a gateway that keeps records in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from p2p.account_file import load_or_create_account
from p2p.account_proof import AccountProof
from p2p.subclouds.identity import label_of
from p2p.subclouds.policy import check_successor
from p2p.subclouds.records import KnownPolicy, PolicyRecord, verify_record
from resultity.__main__ import main
from resultity.account_keys import OwnersDesk
from resultity.commands import subcloud_publish, subcloud_show
from resultity.errors import GatewayCallError
from resultity.subclouds.client import Published, SubcloudSummary
from resultity.subclouds.template import EXAMPLES
from tests.fakes.subclouds import NETWORK

NOW_MS = 1_700_000_000_000


class Bootstraps:
    """What a gateway's courier reaches: versions by subcloud, checked as peers check them."""

    def __init__(self) -> None:
        self.versions: dict[str, list[KnownPolicy]] = {}

    def client(self, _url: str, _network: str) -> Bootstraps:
        return self

    def publish(self, record: PolicyRecord) -> Published:
        known = verify_record(record, NETWORK)
        kept = self.versions.setdefault(known.identity, [])
        if kept:
            check_successor(kept[-1].policy, kept[-1].digest, known.policy, known.digest)
        kept.append(known)
        return Published(known.identity, label_of(known.identity))

    def get(self, name: str) -> KnownPolicy:
        for identity, kept in self.versions.items():
            if name in (identity, label_of(kept[-1].identity)):
                return kept[-1]
        raise GatewayCallError("unknown", status=404, code="unknown_subcloud")

    def history(self, name: str) -> list[KnownPolicy]:
        return self.versions[self.get(name).identity][::-1]

    def list(self) -> Sequence[SubcloudSummary]:
        return [
            SubcloudSummary(
                known.identity,
                label_of(known.identity),
                known.policy.owner,
                known.policy.version,
                known.digest,
                known.policy.join,
                known.policy.expires_ms,
                known.policy.ended,
            )
            for known in (kept[-1] for kept in self.versions.values())
        ]

    def evidence(self, _name: str) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bootstraps:
    found = Bootstraps()
    monkeypatch.setattr(subcloud_publish, "SubcloudClient", found.client)
    monkeypatch.setattr(subcloud_show, "SubcloudClient", found.client)
    monkeypatch.setenv("RESULTITY_NETWORK", NETWORK)
    monkeypatch.setenv("RESULTITY_GATEWAY_URL", "http://127.0.0.1:9/v1")
    monkeypatch.chdir(tmp_path)
    accounts = {}
    for name in ("owner", "taker"):
        keys = load_or_create_account(tmp_path / f"{name}.account", NETWORK, lambda: NOW_MS)
        accounts[keys.account_id] = AccountProof(keys.founding)
    monkeypatch.setattr(OwnersDesk, "proof", lambda _self, _key, account: accounts[account])
    Path("eu.yaml").write_text("name: eu\nexpires: 365d\ncallers: {anyone: true}\n")
    return found


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["subcloud", *arguments])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def account(name: str) -> tuple[str, str]:
    return ("--account-file", f"{name}.account")


def test_new_and_check_need_neither_network_nor_keys(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    run("new", str(path))
    assert "well-formed" in run("check", str(path)).stdout
    assert "exists already" in run("new", str(path), code=1).stderr
    assert "give --name" in run("new", str(tmp_path / "No Name.yaml"), code=1).stderr
    for which in EXAMPLES:
        path = tmp_path / f"{which}.yaml"
        run("new", str(path), "--from", which, "--name", "my-own")
        assert "\nname: my-own\n" in path.read_text()
    path.write_text("name: x\nexpires: 1d\nregions: {evidence: proven}\n")
    notes = run("check", str(path)).stderr
    assert "nobody may send requests" in notes
    assert "asks nothing" in notes
    path.write_text("name: x\nexpired: 1d\njoin: closed\n")
    lines = run("check", str(path), code=1).stderr.splitlines()
    assert lines == [
        f"{path}: line 1, column 1: `expires` is missing: write a time like `365d` (from its "
        "signing) or a date like `2027-12-31` (00:00 UTC)",
        f"{path}: line 2, column 1: there is no field `expired` here: did you mean `expires`?",
        f"{path}: line 3, column 7: `join`: expected `open`, `semi-open` or `private`, not "
        "'closed'",
    ]
    path.write_bytes(b"name: \xff")
    assert "UTF-8" in run("check", str(path), code=1).stderr
    path.write_text("name: x\nexpires: 2020-01-01\n")
    assert "line 2, column 10: `expires`: that is over" in run("check", str(path), code=1).stderr


def test_a_policy_is_published_shown_changed_and_ended(world: Bootstraps) -> None:
    assert "version 1 of eu is published" in run("publish", "eu.yaml", *account("owner")).stdout
    shown = run("show", "eu", "--yaml").stdout
    assert shown == "name: eu\nexpires: 365d\ncallers:\n  anyone: true\n"
    assert "# version     1" in run("show", "eu").stdout
    record = json.loads(run("show", "eu", "--json").stdout)
    assert record["policy"]["callers"]["anyone"] is True
    Path("eu.yaml").write_text(shown + "isolate: true\n")
    assert run("diff", "eu", "eu.yaml", code=1).stdout == "isolate: false -> true\n"
    run("publish", "eu.yaml", *account("owner"))
    assert "no difference" in run("diff", "eu", "eu.yaml").stderr
    assert run("diff", "eu:1", "eu:2", code=1).stdout == "isolate: false -> true\n"
    assert "not kept" in run("diff", "eu:1", "eu:7", code=1).stderr
    assert "not a version" in run("show", "eu:x", code=1).stderr
    assert "belongs to" in run("revoke", "eu", "--yes", *account("taker"), code=1).stderr
    assert "Aborted" in run("revoke", "eu", *account("owner"), code=1).stderr
    run("revoke", "eu", "--yes", *account("owner"))
    assert world.get("eu").policy.ended
    assert "(the last: it has ended)" in run("show", "eu").stdout
    history = run("history", "eu").stdout.splitlines()
    assert [line.split()[0] for line in history] == ["eu:3", "eu:2", "eu:1"]
    assert len(json.loads(run("history", "eu", "--json").stdout)["versions"]) == 3


def test_another_accounts_name_is_not_taken_for_ones_own(world: Bootstraps) -> None:
    """Who forgets the account file must not found a second subcloud without noticing."""
    run("publish", "eu.yaml", *account("owner"))
    told = run("publish", "eu.yaml", *account("taker"), code=1).stderr
    assert f"eu is the name of {world.get('eu').identity}" in told
    run("publish", "eu.yaml", *account("taker"), "--found")
    run("publish", "eu.yaml", *account("taker"))  # now it has one
    assert sorted(kept[-1].policy.version for kept in world.versions.values()) == [1, 2]
    lines = run("list").stdout.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["eu", "open", "version", "1"],
        ["eu", "open", "version", "2"],
    ]
    assert json.loads(run("list", "--json").stdout.splitlines()[0])["label"] == "eu"
    assert "no such file" in run("diff", "eu", "us.yaml", code=1).stderr


def test_the_owner_signs_offline(world: Bootstraps) -> None:
    run("sign", "eu.yaml", *account("owner"))
    run("publish", "eu.policy")
    run("show", "eu", "-o", "in-force.policy")
    Path("eu.yaml").write_text("name: eu\nexpires: 30d\n")
    assert "fork" in run("sign", "eu.yaml", *account("owner"), code=1).stderr
    assert "nobody may send" in run(
        "sign", "eu.yaml", "--after", "in-force.policy", "-o", "2.policy", *account("owner")
    ).stderr  # fmt: skip
    assert run("diff", "in-force.policy", "2.policy", code=1).stdout.splitlines() == [
        "expires: 365d -> 30d",
        "callers.anyone: true -> false",
    ]
    run("publish", "2.policy", *account("owner"))
    assert world.get("eu").policy.version == 2
    assert "another's" in run("publish", "2.policy", *account("taker"), code=1).stderr
    Path("eu.yaml").write_text("name: eu\nexpires: 30\n")
    assert run("sign", "eu.yaml", *account("owner"), code=1).stderr.startswith(
        "eu.yaml: line 2, column 10: `expires`"
    )


def test_a_subcloud_is_handed_over(world: Bootstraps) -> None:
    run("publish", "eu.yaml", *account("owner"))
    taker = json.loads(Path("taker.account").read_text())["account_id"]
    run("handover", "eu", "--to", taker, *account("owner"))
    assert (
        "not an account ID" in run("handover", "eu", "--to", "x", *account("owner"), code=1).stderr
    )
    assert "belongs to" in run(
        "publish", "eu.yaml", "--after", "eu.handover", *account("owner"), code=1
    ).stderr  # fmt: skip
    run("publish", "eu.yaml", "--after", "eu.handover", *account("taker"))
    known = world.get("eu")
    assert (known.policy.version, known.policy.owner) == (2, taker)
    assert "# handed over 1 times" in run("show", "eu").stdout
    # From now on it is the taker's: the next version needs no handover.
    run("publish", "eu.yaml", *account("taker"))
    assert world.get("eu").policy.version == 3
    assert "belongs to" in run("publish", "eu.yaml", *account("owner"), code=1).stderr


def test_a_version_is_signed_again(world: Bootstraps) -> None:
    run("publish", "eu.yaml", *account("owner"))
    run("resign", "eu", *account("owner"))
    assert len({known.digest for known in world.history("eu")}) == 1
