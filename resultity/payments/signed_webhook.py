"""Owns the adapter of the payment port for signed JSON webhooks, and the making of its signature.

The header `Webhook-Signature: t=<seconds since 1970>,v1=<hex>` carries HMAC-SHA-256, by the shared
secret, over `<t>.<body as it is sent>`. Several `v1` may stand in it, one for each secret in use.
The time is part of what is signed, so that a webhook that somebody recorded is worth nothing five
minutes later (and makes no second grant before). docs/how-to/take-payments.md has the form of the
body.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from p2p.limits import AMOUNT_MICROCREDITS_MAX
from p2p.types import AccountId, is_account_id, is_namespace_name
from resultity.payments.errors import ForgedWebhookError, MalformedEventError
from resultity.payments.limits import (
    EVENT_ID_CHARACTERS_MAX,
    REFERENCE_CHARACTERS_MAX,
    SIGNATURE_HEADER_CHARACTERS_MAX,
    SIGNATURES_MAX,
    TOLERANCE_S,
)
from resultity.payments.port import Payment

SIGNATURE_HEADER = "webhook-signature"
SUCCEEDED = "payment.succeeded"
_FORGED = "the signature does not fit: is it signed with this provider's secret?"


def signature(secret: bytes, at_s: int, body: bytes) -> str:
    """Give the signature of a body at a time, in hex."""
    return hmac.new(secret, b"%d." % at_s + body, hashlib.sha256).hexdigest()


def signature_header(secrets: Sequence[bytes], at_s: int, body: bytes) -> str:
    """Give the value of the header `Webhook-Signature`."""
    parts = [f"t={at_s}", *(f"v1={signature(secret, at_s, body)}" for secret in secrets)]
    return ",".join(parts)


class SignedWebhook:
    """A provider that signs JSON events with a shared secret."""

    def __init__(
        self, name: str, secrets: Sequence[bytes], rates: Mapping[str, int] | None = None
    ) -> None:
        """Take events of a provider.

        Args:
            secrets: any of them may have signed (`webhook_secrets` has checked their strength).
            rates: microcredits for the smallest unit of a currency (`{"EUR": 10_000}`: a credit is
                one euro); events in other currencies are refused.
        """
        self._name = name
        self._secrets = tuple(secrets)
        self._rates = dict(rates or {})

    @property
    def name(self) -> str:
        """The provider's name."""
        return self._name

    def verify(self, headers: Mapping[str, str], body: bytes, now_s: int) -> Payment | None:
        """As `PaymentProvider.verify`."""
        at_s, found = _parse_header(headers.get(SIGNATURE_HEADER, ""))
        expected = [signature(secret, at_s, body) for secret in self._secrets]
        # All pairs, always: the time that this takes says nothing of which one fits.
        fits = [hmac.compare_digest(own, given) for own in expected for given in found]
        if not any(fits):
            raise ForgedWebhookError(_FORGED)
        if abs(now_s - at_s) > TOLERANCE_S:
            raise ForgedWebhookError(
                f"this was signed {now_s - at_s} s ago, and {TOLERANCE_S} s are allowed: "
                "sign each repetition anew, check the clocks"
            )
        event = _parse_body(body)
        if _text(event, "type", 100) != SUCCEEDED:
            return None
        return self._payment(event)

    def _payment(self, event: dict[str, Any]) -> Payment:
        account_id, namespace = _text(event, "account", 100), _text(event, "namespace", 100)
        if not is_account_id(account_id):
            raise MalformedEventError("`account` is an account ID (acct-<40 hex digits>)")
        if not is_namespace_name(namespace):
            raise MalformedEventError("`namespace` is 1 to 64 of a-z, 0-9, - and _")
        event_id = _text(event, "id", EVENT_ID_CHARACTERS_MAX)
        if not event_id.isascii() or any(character.isspace() for character in event_id):
            raise MalformedEventError("`id` is ASCII text without spaces")
        reference = ""
        if event.get("reference") is not None:
            reference = _text(event, "reference", REFERENCE_CHARACTERS_MAX)
            if len(reference.encode()) > REFERENCE_CHARACTERS_MAX:
                raise MalformedEventError(
                    f"`reference` has at most {REFERENCE_CHARACTERS_MAX} bytes in UTF-8"
                )
        amount = self._amount(event)
        return Payment(self._name, event_id, AccountId(account_id), namespace, amount, reference)

    def _amount(self, event: dict[str, Any]) -> int:
        exact, money = event.get("amount_microcredits"), event.get("amount")
        if (exact is None) == (money is None):
            raise MalformedEventError("an event has `amount_microcredits` or `amount`, not both")
        if money is None:
            return _amount_of(exact, "amount_microcredits")
        if not isinstance(money, dict):
            raise MalformedEventError("`amount` is {currency, minor_units}")
        rate = self._rates.get(_text(money, "currency", 10))
        if rate is None:
            known = ", ".join(sorted(self._rates)) or "none"
            raise MalformedEventError(f"there is no rate for this currency (known: {known})")
        units = _amount_of(money.get("minor_units"), "amount.minor_units")
        return _amount_of(units * rate, "amount, in microcredits,")


def _parse_header(text: str) -> tuple[int, list[str]]:
    if not text:
        raise ForgedWebhookError("there is no Webhook-Signature header")
    parts = text.split(",") if len(text) <= SIGNATURE_HEADER_CHARACTERS_MAX else []
    pairs = [part.strip().partition("=")[::2] for part in parts]
    times = [value for name, value in pairs if name == "t"]
    found = [value for name, value in pairs if name == "v1"]
    good = len(times) == 1 and times[0].isascii() and times[0].isdigit() and len(times[0]) <= 12
    if not good or not 1 <= len(found) <= SIGNATURES_MAX or not all(s.isascii() for s in found):
        raise ForgedWebhookError("Webhook-Signature has the form t=<seconds>,v1=<hex>")
    return int(times[0]), found


def _parse_body(body: bytes) -> dict[str, Any]:
    try:
        event = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
    except (ValueError, RecursionError) as error:
        raise MalformedEventError(f"the body is not acceptable JSON: {str(error)[:100]}") from error
    if not isinstance(event, dict):
        raise MalformedEventError("the body is a JSON object")
    return event


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_float(text: str) -> int:
    raise ValueError(f"numbers are integers, not {text[:20]}")


def _text(event: dict[str, Any], name: str, characters_max: int) -> str:
    value = event.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= characters_max:
        raise MalformedEventError(f"`{name}` is a text of 1 to {characters_max} characters")
    if not value.isprintable():
        raise MalformedEventError(f"`{name}` is printable text")
    return value


def _amount_of(value: Any, name: str) -> int:
    if type(value) is not int or not 0 < value <= AMOUNT_MICROCREDITS_MAX:
        raise MalformedEventError(f"`{name}` is an integer from 1 to {AMOUNT_MICROCREDITS_MAX}")
    return value
