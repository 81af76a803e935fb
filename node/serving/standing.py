"""Owns how a model stands with the network and its operator: name, tasks, approval, rules."""

from __future__ import annotations

from dataclasses import dataclass

from node.agent.admission_rules import OperatorRules, model_refused
from node.agent.runtime_port import ModelFacts
from node.runtime_messages import RuntimeFacts
from node.serving.facts import facts_of
from node.serving.shelf import FileFacts
from p2p.configuration_book import ConfigurationBook
from p2p.network_configuration import ApprovedModel, NetworkConfiguration, price_terms


@dataclass(frozen=True, slots=True)
class Standing:
    """What follows from a configuration: `approved` None: it does not know the model.

    `rules_reason`: why the operator's own rules forbid it, or empty.
    """

    approved: ApprovedModel | None
    rules_reason: str
    facts: ModelFacts


class StandingBook:
    """Gives one model's standing; found once for each configuration, file and runtime, because
    every offer asks for it."""

    def __init__(self, configuration: ConfigurationBook, rules: OperatorRules) -> None:
        """Look into this configuration."""
        self._configuration = configuration
        self._rules = rules
        self._seen: tuple[NetworkConfiguration | None, FileFacts, RuntimeFacts | None] | None = None
        self._standing: Standing | None = None

    @property
    def configured(self) -> bool:
        """Whether there is a configuration yet."""
        return self._configuration.known

    def of(self, file: FileFacts, runtime: RuntimeFacts | None) -> Standing:
        """The standing now."""
        current = self._configuration.current if self._configuration.known else None
        seen, standing = self._seen, self._standing
        if seen is not None and standing is not None:
            same = seen[0] is current and seen[1] is file and seen[2] is runtime
            if same:
                return standing
        self._seen = (current, file, runtime)
        self._standing = standing = self._find(current, file, runtime)
        return standing

    def _find(
        self, current: NetworkConfiguration | None, file: FileFacts, runtime: RuntimeFacts | None
    ) -> Standing:
        approved = current.model_with_digest(file.digest) if current is not None else None
        rules_reason = ""
        if current is not None and approved is not None:
            terms = price_terms(current, approved)
            _, rules_reason = model_refused(self._rules, approved.name, terms)
        return Standing(approved, rules_reason, facts_of(file, approved, runtime))
