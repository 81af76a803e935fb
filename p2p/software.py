"""Owns the name and version that peers tell each other."""

from __future__ import annotations

from importlib import metadata

try:
    SOFTWARE = f"resultity/{metadata.version('resultity')}"
except metadata.PackageNotFoundError:  # run from a checkout that is not installed
    SOFTWARE = "resultity/unknown"
