"""Owns how a model stands with the network and its operator: name, tasks, approval, rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from node.agent.admission_rules import OperatorRules, model_refused
from node.agent.runtime_port import ModelFacts
from node.runtime_messages import RuntimeFacts
from node.serving.facts import facts_of
from node.serving.shelf import FileFacts
from p2p.configuration_book import ConfigurationBook
from p2p.network_configuration import ApprovedModel, NetworkConfiguration, price_terms

OwnModel = Callable[[bytes], ApprovedModel | None]


def no_own_model(digest: bytes) -> ApprovedModel | None:
    """No policy approves anything."""
    return None


@dataclass(frozen=True, slots=True)
class Standing:
    """What follows from a configuration: `approved` None: neither it nor a policy knows the model.

    `rules_reason`: why the operator's own rules forbid it, or empty.
    """

    approved: ApprovedModel | None
    rules_reason: str
    facts: ModelFacts


class StandingBook:
    """Gives one model's standing; found once for each configuration, file and runtime, because
    every offer asks for it."""

    def __init__(
        self,
        configuration: ConfigurationBook,
        rules: OperatorRules,
        own_model: OwnModel = no_own_model,
    ) -> None:
        """Look into this configuration; `own_model` gives what a policy of this node's subclouds
        approves by itself."""
        self._configuration = configuration
        self._rules = rules
        self._own_model = own_model
        self._seen: tuple[object, ...] = ()
        self._standing: Standing | None = None

    @property
    def configured(self) -> bool:
        """Whether there is a configuration yet."""
        return self._configuration.known

    def of(self, file: FileFacts, runtime: RuntimeFacts | None) -> Standing:
        """The standing now."""
        current = self._configuration.current if self._configuration.known else None
        own = self._own_model(file.digest)
        seen, standing = (current, file, runtime, own), self._standing
        same = all(new is old for new, old in zip(seen, self._seen, strict=False))
        if standing is not None and same:
            return standing
        self._seen = seen
        self._standing = standing = self._find(current, file, runtime, own)
        return standing

    def _find(
        self,
        current: NetworkConfiguration | None,
        file: FileFacts,
        runtime: RuntimeFacts | None,
        own: ApprovedModel | None,
    ) -> Standing:
        approved = current.model_with_digest(file.digest) if current is not None else None
        approved = approved or own
        rules_reason = ""
        if current is not None and approved is not None:
            terms = price_terms(current, approved)
            _, rules_reason = model_refused(self._rules, approved.name, terms)
        return Standing(approved, rules_reason, facts_of(file, approved, runtime))
