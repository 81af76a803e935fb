"""Import rules that import-linter cannot say: pure modules stay pure, also through others.

A pure module takes values and returns values. It reaches no event loop, no clock, no socket and no
process, neither itself nor through a module of ours.
"""

from __future__ import annotations

import grimp
import pytest

PACKAGES = ("p2p", "node", "bootstrap", "gateway", "ledger", "resultity")
IMPURE_LIBRARIES = ("trio", "anyio", "asyncio", "socket", "selectors", "subprocess", "threading")
CLOCKS = ("time",)
PURE = (
    "p2p.account_proof",
    "p2p.adverts",
    "p2p.api_keys",
    "p2p.approved_models",
    "p2p.unverified_usage",
    "p2p.certificates",
    "p2p.codec",
    "p2p.errors",
    "p2p.freshness",
    "p2p.job_messages",
    "p2p.ledger_messages",
    "p2p.limits",
    "p2p.log_messages",
    "p2p.network_configuration",
    "p2p.newest_book",
    "p2p.opening_messages",
    "p2p.prices",
    "p2p.log_topics",
    "p2p.mirror_messages",
    "p2p.signing",
    "p2p.conduct_messages",
    "p2p.stake_messages",
    "p2p.subcloud_usage_messages",
    "p2p.subclouds.conduct",
    "p2p.subclouds.creation",
    "p2p.subclouds.directory_messages",
    "p2p.subclouds.evaluation",
    "p2p.subclouds.evidence",
    "p2p.subclouds.evidence_documents",
    "p2p.subclouds.evidence_messages",
    "p2p.subclouds.facts",
    "p2p.subclouds.grades",
    "p2p.subclouds.identity",
    "p2p.subclouds.index",
    "p2p.subclouds.invites",
    "p2p.subclouds.membership_standing",
    "p2p.subclouds.memberships",
    "p2p.subclouds.policy",
    "p2p.subclouds.policy_rules",
    "p2p.subclouds.records",
    "p2p.subclouds.secret_texts",
    "p2p.subclouds.terms",
    "p2p.subclouds.tokens",
    "p2p.subcloud_rules",
    "p2p.token_bucket",
    "p2p.types",
    "p2p.wire",
    "node.agent.offer_rules",
    "node.agent.subcloud_offers",
    "node.subclouds.candidates",
    "node.subclouds.membership_changes",
    "node.subclouds.membership_rules",
    "node.subclouds.settings",
    "node.subclouds.showing",
    "node.observation.subcloud_status",
    "node.gguf_header",
    "node.model_quantisation",
    "node.runtime.chat_template",
    "node.runtime.sampling",
    "node.runtime.text_stream",
    "node.runtime.tool_grammar",
    "node.runtime_messages",
    "node.store.states",
    "node.store.sources",
    "gateway.http.call_markup",
    "gateway.http.call_objects",
    "gateway.http.tool_calls",
    "gateway.http.written_tokens",
    "gateway.peer.admission",
    "gateway.peer.attempt",
    "gateway.peer.charging",
    "gateway.peer.lease_rules",
    "gateway.peer.observing",
    "gateway.peer.receipts",
    "gateway.peer.routing",
    "gateway.peer.unverified",
    "gateway.peer.unverified_counts",
    "gateway.subclouds.explanations",
    "gateway.subclouds.members",
    "gateway.subclouds.tally",
    "node.upstream.answers",
    "node.upstream.calls",
    "node.upstream.counting",
    "node.upstream.facts",
    "node.upstream.names",
    "node.upstream.requests",
    "node.upstream.sse",
    "ledger.account_rules",
    "ledger.conduct",
    "ledger.stake_rules",
    "ledger.stakes",
    "ledger.subcloud_usage",
    "p2p.transfer_ids",
    "ledger.invite_rules",
    "ledger.key_limits",
    "ledger.key_proof",
    "ledger.opening_errors",
    "ledger.referral_rules",
    "resultity.payments.port",
    "resultity.payments.signed_webhook",
    "ledger.accounts",
    "ledger.book",
    "ledger.errors",
    "ledger.log.alarms",
    "ledger.log.appending",
    "ledger.log.batch",
    "ledger.log.errors",
    "ledger.log.leaves",
    "ledger.log.merkle",
    "ledger.log.notes",
    "ledger.log.proofs",
    "ledger.log.rules",
    "ledger.log.sources",
    "ledger.log.tiles",
    "ledger.log.witness",
    "ledger.operations",
    "ledger.receipts",
    "ledger.records",
    "ledger.rules",
    "p2p.usage_messages",
    "ledger.usage",
    "ledger.usage_export",
    "ledger.consumption",
    "ledger.rcp",
    "ledger.rcp_rules",
    "bootstrap.uptime",
    "ledger.transfer_rules",
    "ledger.disputes",
    "ledger.dispute_rules",
    "p2p.dispute_messages",
)
# What the ledger must not reach: it takes a `call` function instead of a network.
NETWORK_SIDE = ("p2p.libp2p_adapter", "p2p.memory_network", "p2p.calls", "p2p.link")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


@pytest.mark.parametrize("module", PURE)
def test_pure_module_stays_pure(graph: grimp.ImportGraph, module: str) -> None:
    assert module in graph.modules
    for library in (*IMPURE_LIBRARIES, *CLOCKS):
        if library in graph.modules:
            chain = graph.find_shortest_chain(module, library, as_packages=False)
            assert chain is None, " -> ".join(chain or ())


@pytest.mark.parametrize("target", NETWORK_SIDE)
def test_ledger_knows_no_network(graph: grimp.ImportGraph, target: str) -> None:
    assert target in graph.modules
    chains = graph.find_shortest_chains("ledger", target, as_packages=True)
    assert not chains, [" -> ".join(chain) for chain in chains]
