"""Sessions: how the token lets a program in, and how it lets a browser in without ever being in a URL.

A program sends the token itself (``Authorization: Bearer``). For a browser, a program that has the token asks for a *code*:
it is good once, for a minute, and stands in the fragment of a URL, which browsers keep to themselves. The page shows the
code, and gets a cookie.

::

    mnemosyne_<port>=<number>.<until>.<MAC under the fleet's key for `session`, over port, number and until>

All dev servers on localhost share one jar of cookies, whatever their port; this one is good at its own port, and nowhere
else. It is signed with the fleet's key and not with the token, so that a page that is open finds back when an instance of the
same fleet starts there again.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from mnemo_coord.disk.signing import Purpose

if TYPE_CHECKING:
    from mnemo_coord.disk.signing import Signer

__all__ = ["CODE_LIFETIME", "Sessions"]

CODE_LIFETIME: Final = 60.0
"""Seconds in which a code has to be used."""
_SESSION_LIFETIME: Final = 7 * 86400
"""Seconds that a cookie is good for."""
_CODES: Final = 64
"""How many may be waiting to be used; the oldest is dropped."""


class Sessions:
    """Who is let in at one instance's API. Used by one thread."""

    def __init__(self, port: int, token: str, signer: Signer, seconds: Callable[[], float] = time.time) -> None:
        self._port = port
        self._cookie = f"mnemosyne_{port}"
        self._token = token.encode()
        self._signer = signer
        self._seconds = seconds
        self._codes: dict[str, float] = {}

    def admits(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request shows the token, or a cookie that was given at this port."""
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
        signed, _, mac = value.rpartition(b".")
        until = signed.partition(b".")[2]
        if len(mac) != 64 or not (until.isdigit() and len(until) <= 12 and int(until) > self._seconds()):
            return False
        try:
            return self._signer.verify(Purpose.SESSION, self._signed(signed), bytes.fromhex(mac.decode()))
        except ValueError:
            return False

    def _signed(self, value: bytes) -> bytes:
        return b"%d:%b" % (self._port, value)

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
        value = f"{os.urandom(16).hex()}.{int(self._seconds()) + _SESSION_LIFETIME}"
        mac = self._signer.sign(Purpose.SESSION, self._signed(value.encode())).hex()
        return f"{self._cookie}={value}.{mac}; HttpOnly; SameSite=Strict; Path=/; Max-Age={_SESSION_LIFETIME}"


def _values(header: bytes, name: str) -> Iterable[bytes]:
    for part in header.split(b";"):
        key, _, value = part.strip().partition(b"=")
        if key == name.encode():
            yield value
