"""Owns the operator's settings about subclouds, and what each name in them may be. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from p2p.errors import MalformedError
from p2p.subclouds.identity import SubcloudId, check_label, parse_subcloud_id

PATTERNS_MAX = 100
PATTERN_CHARACTERS_MAX = 100
_WILD = "*?["


@dataclass(frozen=True, slots=True)
class SubcloudSettings:
    """Which subclouds this node joins by itself.

    Attributes:
        auto_join: names. One with a wildcard (`eu-*`) is compared with registered labels, and joins
            open subclouds only; one without is a label or an ID: an open one is joined, a semi-open
            one is asked.
        isolate: the one subcloud (label or ID) for which the node may leave the global pool; it is
            joined too.

    Raises: MalformedError for values that cannot work.
    """

    auto_join: tuple[str, ...] = ()
    isolate: str = ""

    def __post_init__(self) -> None:
        """Check what can be checked."""
        if len(self.auto_join) > PATTERNS_MAX:
            raise MalformedError(f"subclouds: auto_join has at most {PATTERNS_MAX} entries")
        for pattern in self.auto_join:
            if not 0 < len(pattern) <= PATTERN_CHARACTERS_MAX:
                raise MalformedError("subclouds: auto_join: a name is empty or too long")
            if not is_pattern(pattern):
                check_name(pattern)
        if self.isolate:
            check_name(self.isolate)


NO_SUBCLOUDS = SubcloudSettings()


def check_country(country: str) -> None:
    """Check the form of a declared country (empty: none). Raises: MalformedError."""
    if country and not (
        len(country) == 2 and country.isascii() and country.isalpha() and country.isupper()
    ):
        raise MalformedError(
            f"country must be two capital letters (ISO 3166-1 alpha-2, for example DE), "
            f"not {country[:20]!r}"
        )


def is_pattern(name: str) -> bool:
    """Whether a name stands for several."""
    return any(character in name for character in _WILD)


def check_name(name: str) -> str:
    """Give a label or ID back. Raises: MalformedError if it can be neither."""
    try:
        return parse_subcloud_id(name)
    except MalformedError:
        pass
    try:
        return check_label(name)
    except MalformedError as error:
        raise MalformedError(
            f"{name[:80]!r} is not the name or ID of a subcloud: {error}"
        ) from None


def id_in(name: str) -> SubcloudId | None:
    """The ID, if a name is one; a label needs the registry."""
    try:
        return parse_subcloud_id(name)
    except MalformedError:
        return None


def matches(pattern: str, label: str) -> bool:
    """Whether a pattern with wildcards stands for a registered label."""
    return bool(label) and is_pattern(pattern) and fnmatchcase(label, pattern)
