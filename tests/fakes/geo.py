"""A GeoIP file for tests with real processes."""

from __future__ import annotations

from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet


def geo_file(path: Path) -> str:
    """A GeoIP file by which this machine is in Germany."""
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True)
    writer.insert_network(IPSet(["127.0.0.0/8"]), {"country": {"iso_code": "DE"}})
    writer.to_db_file(str(path))
    return str(path)
