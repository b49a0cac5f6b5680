"""Sessions: how the token lets a program in, and how it lets a browser in without ever being in a URL.

A program sends the token itself (``Authorization: Bearer``). For a browser, a program that has the token asks for a *code*:
it is good once, for a minute, and stands in the fragment of a URL, which browsers keep to themselves. The page shows the
code, and gets a cookie. The cookie is a number and its MAC under the token, so that it ends with the token and this process
remembers nothing. All dev servers on localhost share one jar of cookies, whatever their port: the cookie's name is the
instance's, and no other instance's is accepted.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["CODE_LIFETIME", "Sessions"]

CODE_LIFETIME: Final = 60.0
"""Seconds in which a code has to be used."""
_CODES: Final = 64
"""How many may be waiting to be used; the oldest is dropped."""


class Sessions:
    """Who is let in at one instance's API. Used by one thread."""

    def __init__(self, instance_id: str, token: str, seconds: Callable[[], float] = time.monotonic) -> None:
        self._cookie = f"mnemosyne_{instance_id}"
        self._token = token.encode()
        self._seconds = seconds
        self._codes: dict[str, float] = {}

    def admits(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request shows the token, or a cookie that was given for it."""
        for name, value in headers:
            if name == b"authorization" and self._is_bearer(value):
                return True
            if name == b"cookie" and any(map(self._is_session, _values(value, self._cookie))):
                return True
        return False

    def _is_bearer(self, value: bytes) -> bool:
        scheme, _, token = value.partition(b" ")
        return scheme.lower() == b"bearer" and self.is_token(token.strip())

    def is_token(self, token: bytes) -> bool:
        """Whether this is the token, in constant time."""
        return hmac.compare_digest(token, self._token)

    def _is_session(self, value: bytes) -> bool:
        number, _, mac = value.partition(b".")
        return hmac.compare_digest(mac, self._mac(number))

    def _mac(self, number: bytes) -> bytes:
        return hmac.digest(self._token, b"session:" + number, hashlib.sha256).hex().encode()

    def new_code(self) -> str:
        """A code that opens one session, once, within `CODE_LIFETIME` seconds."""
        now = self._seconds()
        self._codes = {code: until for code, until in self._codes.items() if until > now}
        while len(self._codes) >= _CODES:
            del self._codes[next(iter(self._codes))]
        code = os.urandom(16).hex()
        self._codes[code] = now + CODE_LIFETIME
        return code

    def use_code(self, code: str) -> bool:
        """Whether a code is good; it is not any more afterwards."""
        return self._codes.pop(code, float("-inf")) > self._seconds()

    def new_cookie(self) -> str:
        """A ``Set-Cookie`` header for a browser that showed a code or the token."""
        number = os.urandom(16).hex().encode()
        value = (number + b"." + self._mac(number)).decode()
        return f"{self._cookie}={value}; HttpOnly; SameSite=Strict; Path=/"


def _values(header: bytes, name: str) -> Iterable[bytes]:
    for part in header.split(b";"):
        key, _, value = part.strip().partition(b"=")
        if key == name.encode():
            yield value
