"""Owns callers' bearer tokens (`rt_...`): who has the string may send jobs to a subcloud. Pure.

Theory of operation. A delegate signs a token with an end, a number of jobs and, if wanted, the
account or namespace that must pay. The caller gives the string with each request, beside an API
key: a token lets in, it pays nothing. The gateway carries it to the ledger, which checks it against
the policy and the newest revocation list and counts its uses where it counts the money. Being a
bearer token it can be used by whoever sees it, the gateway that carries it included: binding it to
an account makes a stolen one worthless to others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from p2p.codec import Limit, Range, decode_message, encode_message, message
from p2p.errors import StaleError, UntrustedError
from p2p.freshness import check_times
from p2p.job_messages import Id
from p2p.limits import NAME_CHARACTERS_MAX
from p2p.signing import Document, KeyPair, Signed, open_signed
from p2p.subclouds.identity import SubcloudId
from p2p.subclouds.memberships import RevocationList
from p2p.subclouds.policy import SubcloudPolicy
from p2p.subclouds.secret_texts import as_text, from_text
from p2p.types import NetworkId

TOKEN_TEXT_PREFIX = "rt_"  # noqa: S105 - the public beginning of every token
TOKEN_TEXT_CHARACTERS_MAX = 1024
TOKEN_LIFETIME_S_MAX = 366 * 86_400
TOKEN_USES_MAX = 2**40
NAMESPACE_CHARACTERS_MAX = 64


@message(192)
@dataclass(frozen=True, slots=True)
class CallerToken(Document):
    """Lets its holder send jobs to a subcloud until `expires_ms`. Signed by a delegate.

    `uses`: how many jobs (holds) in all; 0: not counted. `account`, `namespace`: who must pay
    (empty: anybody); a namespace is one of that account.
    """

    PURPOSE: ClassVar[str] = "caller-token"
    token_id: Id
    subcloud_id: Annotated[SubcloudId, Limit(NAME_CHARACTERS_MAX)]
    issued_ms: int
    expires_ms: int
    uses: Annotated[int, Range(0, TOKEN_USES_MAX)] = 0
    account: Annotated[str, Limit(NAME_CHARACTERS_MAX)] = ""
    namespace: Annotated[str, Limit(NAMESPACE_CHARACTERS_MAX)] = ""


def token_text(signed: Signed) -> str:
    """Give the string that a caller gets."""
    return as_text(TOKEN_TEXT_PREFIX, encode_message(signed))


def parse_token(text: str) -> Signed:
    """Read a token's string; whether it is good is for `open_token`. Raises: MalformedError."""
    body = from_text(TOKEN_TEXT_PREFIX, text, TOKEN_TEXT_CHARACTERS_MAX, "access token")
    return decode_message(body, Signed)


def open_token(signed: Signed, policy: SubcloudPolicy, now_ms: int) -> CallerToken:
    """Check that a delegate of a policy lets the holder of a token in now.

    Whether it was revoked, and how often it was used, is for the caller to ask.
    Raises: UntrustedError, StaleError, MalformedError.
    """
    if not policy.callers.tokens:
        raise UntrustedError("this subcloud takes no tokens")
    if signed.signer not in policy.delegate_public_keys:
        raise UntrustedError("this token is not signed by a delegate")
    token = open_signed(signed, CallerToken, NetworkId(policy.network_id))
    if token.subcloud_id != policy.subcloud_id:
        raise UntrustedError("a token of another subcloud")
    if token.namespace and not token.account:
        raise UntrustedError("a token for a namespace names its account")
    check_times(token.issued_ms, token.expires_ms, now_ms)
    if token.expires_ms - token.issued_ms > TOKEN_LIFETIME_S_MAX * 1000:
        raise StaleError("a token that claims to hold for too long")
    return token


def token_allows(token: CallerToken, account: str, namespace: str) -> bool:
    """Tell whether a token is for jobs that this namespace of this account pays."""
    return token.account in ("", account) and token.namespace in ("", namespace)


def token_is_revoked(token: CallerToken, revocations: RevocationList | None) -> bool:
    """Tell whether a delegate took a token back (`None`: no list was ever published)."""
    return revocations is not None and token.token_id in revocations.revoked_tokens


def issue_token(delegate: KeyPair, policy: SubcloudPolicy, token: CallerToken) -> Signed:
    """Sign a token. Raises: UntrustedError, StaleError, MalformedError (nobody would take it)."""
    signed = delegate.sign(NetworkId(policy.network_id), token)
    open_token(signed, policy, token.issued_ms)
    return signed
