"""Owns the error tree of the bootstrap.

BootstrapError
└── BootstrapStartError    it cannot serve with these files or settings (the operator must act)
"""

from __future__ import annotations


class BootstrapError(Exception):
    """Anything that the bootstrap reports to its operator."""


class BootstrapStartError(BootstrapError):
    """A certificate, configuration or database that it cannot serve with."""
