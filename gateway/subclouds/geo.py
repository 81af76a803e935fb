"""Owns the GeoIP file that a gateway's operator supplies: the country of an address.

Theory of operation. The file is a MaxMind DB (MMDB) with a country for each network, as MaxMind's
GeoLite2-Country, DB-IP's and IPinfo's free ones are. It is read into memory, so that it may be
replaced or rewritten while the gateway runs; a file that changed is read again, and one that cannot
be read leaves the last good one in force. What the file does not know is unknown: private and
loopback addresses are unless the operator's file has them.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import maxminddb
import trio

from gateway.errors import GatewaySetupError
from gateway.limits import GEOIP_CACHE_ENTRIES_MAX, GEOIP_FILE_BYTES_MAX, GEOIP_LOOK_S
from p2p.subclouds.evidence_documents import is_country

log = logging.getLogger(__name__)
UNKNOWN = ""


class GeoFile:
    """Gives the country of addresses."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises: GatewaySetupError that says what is wrong with it."""
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._said = ""
        self.on_change: Callable[[], None] = lambda: None
        """Called after another file came into force."""
        try:
            self._load()
        except GatewaySetupError as error:
            raise GatewaySetupError(str(error), param="geoip_file") from error

    def country_of(self, address: str) -> str:
        """Give the country (ISO 3166-1 alpha-2) of an IP address, or "" if it is not known."""
        return self._country_of(address) if address else UNKNOWN

    def refresh(self) -> bool:
        """Read the file again if it has changed. Returns: whether another one is in force."""
        try:
            changed = self._load()
        except GatewaySetupError as error:
            if str(error) != self._said:
                self._said = str(error)
                log.warning("%s; the file of before stays in force", error)
            return False
        self._said = ""
        if changed:
            log.info("GeoIP file %s is in force", self._path)
        return changed

    async def run(self) -> None:
        """Look for another file now and then, until cancelled."""
        while True:
            await trio.sleep(GEOIP_LOOK_S)
            if await trio.to_thread.run_sync(self.refresh):
                self.on_change()

    def _load(self) -> bool:
        try:
            found = self._path.stat()
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
            if seen == self._seen:
                return False
            if found.st_size > GEOIP_FILE_BYTES_MAX:
                raise GatewaySetupError(
                    f"GeoIP file {self._path} has more than {GEOIP_FILE_BYTES_MAX >> 20} MB: "
                    "use one with countries only"
                )
            reader = maxminddb.open_database(self._path, maxminddb.MODE_MEMORY)
        except OSError as error:
            raise GatewaySetupError(f"GeoIP file {self._path}: {error.strerror}") from error
        except (maxminddb.InvalidDatabaseError, ValueError) as error:
            raise GatewaySetupError(
                f"GeoIP file {self._path} is not a MaxMind DB (.mmdb): {error}"
            ) from error
        self._seen = seen
        lookup = functools.partial(_look_up, reader)
        self._country_of = functools.lru_cache(GEOIP_CACHE_ENTRIES_MAX)(lookup)
        return True


def _look_up(reader: Any, address: str) -> str:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return UNKNOWN
    mapped = getattr(ip, "ipv4_mapped", None)
    try:
        return _country_in(reader.get(mapped or ip))
    except (ValueError, maxminddb.InvalidDatabaseError):
        return UNKNOWN  # an IPv6 address in a file of IPv4, or a damaged record


def _country_in(record: object) -> str:
    """Find the country in a record: MaxMind's and DB-IP's form, or IPinfo's."""
    if not isinstance(record, dict):
        return UNKNOWN
    country = record.get("country")
    if isinstance(country, dict):
        country = country.get("iso_code")
    if not (isinstance(country, str) and is_country(country)):
        country = record.get("country_code")
    return country if isinstance(country, str) and is_country(country) else UNKNOWN
