"""Who may ask a service: tokens, compared in constant time, each with a rate of its own."""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Sequence
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import Scope

from minivess.config import environment
from minivess.errors import UsageError
from minivess.serving.upload import Refusal

OPEN = ("/", "/livez", "/readyz", "/healthz", "/metrics")
"""Paths for probes, Prometheus and the page; they show counts and limits, never a volume."""
SHORTEST = 16
NEW = "python -c 'import secrets; print(secrets.token_urlsafe())'"


class Access:
    """Lets in who sends one of the tokens, as often per minute as is stated.

    Args:
        tokens: none: everybody is let in.
        per_minute: requests of one token, also in one burst; 0: any number.
    """

    def __init__(self, tokens: Sequence[str], per_minute: int) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._per_minute = per_minute
        self._left = [(float(per_minute), time.monotonic())] * len(tokens)

    @classmethod
    def stated(cls) -> Access:
        """Make one of the environment's variables."""
        return cls(tokens(), environment().requests_per_minute)

    def check(self, scope: Scope) -> None:
        """Let a request in, and count it.

        Raises:
            Refusal: 401 without one of the tokens, 429 where its rate is used up.
        """
        if not self._tokens or scope["path"] in OPEN:
            return
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # Each token is compared, so that the time says nothing about which one was near.
        same = [hmac.compare_digest(given.strip().encode(), token) for token in self._tokens]
        if kind.lower() != "bearer" or not any(same):
            raise Refusal(
                HTTPStatus.UNAUTHORIZED,
                "No token came, or one that is not known here.",
                "send the header `Authorization: Bearer TOKEN`; `minivess predict` takes the "
                "token from MINIVESS_TOKEN or MINIVESS_TOKEN_FILE",
                {"WWW-Authenticate": "Bearer"},
            )
        if self._per_minute:
            self._count(same.index(True))

    def _count(self, which: int) -> None:
        left, at = self._left[which]
        now, rate = time.monotonic(), self._per_minute / 60
        left = min(self._per_minute, left + (now - at) * rate)
        if left < 1:
            wait_s = int((1 - left) / rate) + 1
            problem = f"This token may ask {self._per_minute} times a minute."
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS, problem, f"ask again in {wait_s} s",
                {"Retry-After": str(wait_s)},
            )  # fmt: skip
        self._left[which] = (left - 1, now)


def tokens() -> tuple[str, ...]:
    """Return the tokens of MINIVESS_TOKEN, or of the lines of the file MINIVESS_TOKEN_FILE.

    Raises:
        UsageError: both are set, the file cannot be read, or a token is too short.
    """
    given = environment()
    if given.token is not None and given.token_file is not None:
        raise UsageError(
            "MINIVESS_TOKEN and MINIVESS_TOKEN_FILE are both set.", remedy="unset one of them"
        )
    try:
        text = given.token or (given.token_file.read_text("utf-8") if given.token_file else "")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The tokens cannot be read from {given.token_file} ({error}).",
            remedy="let MINIVESS_TOKEN_FILE name a readable file with one token a line",
        ) from error
    known = tuple(text.split())
    if given.token_file and not known:
        raise UsageError(
            f"{given.token_file} holds no token.", remedy=f"put one in: {NEW} > {given.token_file}"
        )
    if any(len(token) < SHORTEST or not token.isascii() for token in known):
        raise UsageError(
            f"A token has fewer than {SHORTEST} characters, or others than ASCII.",
            remedy=f"make one: {NEW}",
        )
    return known


def headers() -> dict[str, str]:
    """Return the headers with which a client shows its token; none without a token.

    Raises:
        UsageError: several tokens are set, and one request carries one.
    """
    known = tokens()
    if len(known) > 1:
        raise UsageError(
            f"MINIVESS_TOKEN_FILE holds {len(known)} tokens, and one request carries one.",
            remedy="unset MINIVESS_TOKEN_FILE and set MINIVESS_TOKEN to yours",
        )
    return {"Authorization": f"Bearer {known[0]}"} if known else {}


def require_token(host: str) -> None:
    """Refuse an address that other machines reach where no token is set.

    Raises:
        UsageError: there is none.
    """
    if not tokens() and not _loopback(host):
        raise UsageError(
            f"At {host} other machines may ask the service, and no token is set.",
            remedy=f"export MINIVESS_TOKEN=$({NEW}), or name a file of tokens in "
            "MINIVESS_TOKEN_FILE; or leave out --host, so that this machine alone is let in",
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
