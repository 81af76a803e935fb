"""Owns the words for whether a node can be dialled, apart from what needs an event loop."""

HIDDEN_MODES = ("auto", "yes", "no")
