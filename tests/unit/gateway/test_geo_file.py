"""The operator's GeoIP file: what it knows, what it does not, and how it is replaced."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from gateway.errors import GatewaySetupError
from gateway.limits import GEOIP_FILE_BYTES_MAX
from gateway.subclouds.geo import GeoFile


def write(path: Path, networks: dict[str, Any], version: int = 6) -> Path:
    """Make a small MaxMind DB; in the way an operator's updater does, by replacing the file."""
    writer = MMDBWriter(version, "Test-Country", ipv4_compatible=version == 6)
    for network, record in networks.items():
        writer.insert_network(IPSet([network]), record)
    new = path.with_suffix(".new")
    writer.to_db_file(str(new))
    os.replace(new, path)
    return path


def country(code: str) -> dict[str, Any]:
    return {"country": {"iso_code": code, "names": {"en": code}}}


NETWORKS = {
    "192.0.2.0/24": country("DE"),
    "198.51.100.0/24": {"country": "FR"},
    "203.0.113.0/24": {"country": "United States", "country_code": "US"},
    "2001:db8::/32": country("SE"),
    "8.8.8.0/24": {"registered_country": {"iso_code": "US"}},
    "9.9.9.0/24": country("Germany"),
}


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("192.0.2.7", "DE"),
        ("::ffff:192.0.2.7", "DE"),
        ("198.51.100.1", "FR"),
        ("203.0.113.1", "US"),
        ("2001:db8::1", "SE"),
        ("2001:db8::1%eth0", "SE"),
        ("8.8.8.8", ""),  # where it is registered is not where it is
        ("9.9.9.9", ""),  # no code
        ("127.0.0.1", ""),
        ("10.0.0.1", ""),
        ("fe80::1", ""),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_what_the_file_knows(tmp_path: Path, address: str, found: str) -> None:
    assert GeoFile(write(tmp_path / "geo.mmdb", NETWORKS)).country_of(address) == found


def test_a_file_of_ipv4_knows_no_ipv6(tmp_path: Path) -> None:
    geo = GeoFile(write(tmp_path / "geo.mmdb", {"192.0.2.0/24": country("DE")}, version=4))
    assert geo.country_of("192.0.2.1") == "DE"
    assert geo.country_of("2001:db8::1") == ""


def test_loopback_counts_if_the_operator_says_so(tmp_path: Path) -> None:
    geo = GeoFile(write(tmp_path / "geo.mmdb", {"127.0.0.0/8": country("DE")}))
    assert geo.country_of("127.0.0.1") == "DE"


def test_a_changed_file_is_read_again_and_a_bad_one_is_not_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "geo.mmdb", NETWORKS)
    geo = GeoFile(path)
    assert not geo.refresh()
    assert geo.country_of("192.0.2.7") == "DE"
    write(path, {"192.0.2.0/24": country("AT")})
    assert geo.refresh()
    assert geo.country_of("192.0.2.7") == "AT"
    path.write_bytes(b"half a download")
    assert not geo.refresh()
    assert geo.country_of("192.0.2.7") == "AT"
    path.unlink()
    assert not geo.refresh()
    assert geo.country_of("192.0.2.7") == "AT"
    write(path, NETWORKS)
    assert geo.refresh()
    assert geo.country_of("192.0.2.7") == "DE"


def test_a_file_that_cannot_be_read_is_told_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "geo.mmdb"
    with pytest.raises(GatewaySetupError, match="No such file") as raised:
        GeoFile(path)
    assert raised.value.param == "geoip_file"
    path.write_bytes(b"not one")
    with pytest.raises(GatewaySetupError, match="not a MaxMind DB"):
        GeoFile(path)
    with path.open("wb") as file:
        file.truncate(GEOIP_FILE_BYTES_MAX + 1)
    with pytest.raises(GatewaySetupError, match="countries only"):
        GeoFile(path)
