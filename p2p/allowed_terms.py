"""Owns the grace between two configurations: whose price terms count while a new one spreads.

Peers learn of a new configuration within seconds of each other. Until everybody has it, and while
jobs that were offered under the old one still run, the old terms count beside the new ones.
"""

from __future__ import annotations

from collections.abc import Callable

from p2p.errors import RefusedError
from p2p.network_configuration import ApprovedModel, NetworkConfiguration, terms_allowed
from p2p.prices import PriceTerms

TERMS_GRACE_MS = 60_000


class AllowedTerms:
    """Tells which price terms are good now: the configuration's, or shortly its predecessor's."""

    def __init__(self, configuration: Callable[[], NetworkConfiguration]) -> None:
        """Follow what `configuration` gives (it must give one already)."""
        self._configuration = configuration
        self._current = configuration()
        self._previous: NetworkConfiguration | None = None
        self._previous_until_ms = 0

    def current(self, now_ms: int) -> NetworkConfiguration:
        """Give the configuration in force; a new one starts the grace of the old one."""
        found = self._configuration()
        if found.version != self._current.version:
            self._previous, self._current = self._current, found
            self._previous_until_ms = now_ms + TERMS_GRACE_MS
        return self._current

    def previous(self, now_ms: int) -> NetworkConfiguration | None:
        """Give the predecessor while its grace lasts."""
        self.current(now_ms)
        return self._previous if now_ms < self._previous_until_ms else None

    def model_for(self, terms: PriceTerms, now_ms: int) -> ApprovedModel:
        """Give the model that these terms are of.

        Raises: RefusedError `terms` if no configuration in force has them.
        """
        for configuration in (self.current(now_ms), self.previous(now_ms)):
            if configuration is None:
                continue
            model = configuration.model_named(terms.model_name)
            if model is not None and terms_allowed(configuration, terms):
                return model
        raise RefusedError(
            "terms",
            f"the price of {terms.model_name} is not what network configuration "
            f"{self._current.version} says",
            retry_after_s=1.0,
        )
