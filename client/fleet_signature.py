"""The site's signature on its Fleet calls, as Flower's `NodeAuthHttpInterceptor` makes it.

* What is signed is the time and nothing else, by the P-384 node key: it proves that the caller has
  the key. The same key is proved to TLS, so a signature is of no use on another connection.
* One signature serves the calls of `SIGNATURE_SECONDS`. Making and checking one costs about a
  millisecond each, and a round is some twenty calls a site. Flower accepts a time that is up to 300
  seconds old.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable
from threading import Lock
from typing import Any, Final

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

SIGNATURE_SECONDS: Final = 60.0
"""How long a signature is used: a fifth of what Flower's own servers accept."""


class NodeSignature:
    """Puts a site's signed time and public key on each call (a `ProtobufClientInterceptor`).

    Args:
        key: The site's node key.
        clock: Seconds that only grow.
    """

    def __init__(
        self, key: ec.EllipticCurvePrivateKey, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._key = key
        self._public_key = b64encode(public_key_to_bytes(key.public_key())).decode("ascii")
        self._clock = clock
        self._lock = Lock()  # heartbeats come from a thread of their own
        self._signed_at = float("-inf")
        self._headers: dict[str, str] = {}

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Pass a call on with the headers."""
        context.request.headers.update(self._present())
        return call_next(context)

    def _present(self) -> dict[str, str]:
        with self._lock:
            if self._clock() - self._signed_at >= SIGNATURE_SECONDS:
                self._signed_at = self._clock()
                signed = now().isoformat()
                signature = sign_message(self._key, signed.encode("ascii"))
                self._headers = {
                    FLEET_HTTP_PUBLIC_KEY_HEADER: self._public_key,
                    TIMESTAMP_HEADER: signed,
                    FLEET_HTTP_SIGNATURE_HEADER: b64encode(signature).decode("ascii"),
                }
            return self._headers
