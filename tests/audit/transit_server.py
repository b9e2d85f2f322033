"""A transit engine on loopback that follows Vault's documented HTTP API, and fails on demand.

Encryption is real AES-256-GCM, versions are real keys, and what a real server refuses is refused
with its status and words. These were read off OpenBao 2.7.2; `test_openbao.py` runs the same
contract against that server where it is installed.

API: https://developer.hashicorp.com/vault/api-docs/secret/transit
"""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = "hvs.a-token-that-no-message-may-show"

Json = dict[str, Any]


@dataclass
class Fault:
    """What goes wrong with one request.

    Attributes:
        status: HTTP status to answer with; 0 drops the connection without an answer.
        errors: What the server says.
        done: The work is done all the same, and only its answer is lost.
        body: A body to send instead, as it is.
        location: Where a redirect leads.
        path: Only requests whose path contains this.
        skip: So many such requests go well before.
        reached: Set when the request came, and its work was done if it is.
        wait_for: Answer when this is set, or after some seconds.
    """

    status: int = 0
    errors: tuple[str, ...] = ()
    done: bool = False
    body: bytes | None = None
    location: str = ""
    path: str = ""
    skip: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    wait_for: threading.Event | None = None


class Refusal(Exception):
    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(*errors)
        self.status = status
        self.errors = errors


@dataclass
class TransitKey:
    """A named key and its versions, with the rules of `config` and `trim`."""

    name: str
    type: str = "aes256-gcm96"
    exportable: bool = False
    versions: dict[int, bytes] = field(default_factory=lambda: {1: os.urandom(32)})
    min_decryption_version: int = 1
    min_encryption_version: int = 0
    min_available_version: int = 0

    @property
    def latest(self) -> int:
        return max(self.versions)

    def read(self) -> Json:
        return {
            "allow_plaintext_backup": False,
            "auto_rotate_period": 0,
            "deletion_allowed": False,
            "derived": False,
            "exportable": self.exportable,
            "keys": {str(n): 0 for n in self.versions if n >= self.min_decryption_version},
            "latest_version": self.latest,
            "min_available_version": self.min_available_version,
            "min_decryption_version": self.min_decryption_version,
            "min_encryption_version": self.min_encryption_version,
            "name": self.name,
            "supports_decryption": True,
            "supports_encryption": True,
            "type": self.type,
        }

    def rotate(self) -> Json:
        self.versions[self.latest + 1] = os.urandom(32)
        return self.read()

    def configure(self, fields: Json) -> Json:
        decryption = fields.get("min_decryption_version", self.min_decryption_version)
        encryption = fields.get("min_encryption_version", self.min_encryption_version)
        for kind, version in (("decryption", decryption), ("encryption", encryption)):
            if version > self.latest:
                raise Refusal(
                    400,
                    f"cannot set min {kind} version of {version}, latest key version is"
                    f" {self.latest}",
                )
            if version < self.min_available_version:
                raise Refusal(
                    400, f"min {kind} version should not be less then min available version"
                )
        if encryption and encryption < decryption:
            raise Refusal(400, "min encryption version should not be less than min decryption")
        self.min_decryption_version, self.min_encryption_version = decryption, encryption
        return self.read()

    def trim(self, fields: Json) -> Json:
        version = fields["min_available_version"]
        if not self.min_encryption_version:
            raise Refusal(
                400,
                "minimum available version cannot be set when minimum encryption version is not"
                " set",
            )
        if version < self.min_available_version:
            raise Refusal(400, "minimum available version cannot be decremented")
        if version > min(self.min_encryption_version, self.min_decryption_version):
            raise Refusal(
                400, "minimum available version cannot be greater than minmum encryption version"
            )
        self.min_available_version = version
        self.versions = {n: key for n, key in self.versions.items() if n >= version}
        return self.read()

    def encrypt(self, plaintext: bytes) -> Json:
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(self.versions[self.latest]).encrypt(nonce, plaintext, None)
        text = base64.b64encode(sealed).decode()
        return {"ciphertext": f"vault:v{self.latest}:{text}", "key_version": self.latest}

    def decrypt(self, ciphertext: str) -> bytes:
        match = re.fullmatch(r"vault:v(\d+):(.*)", ciphertext)
        if match is None:
            raise Refusal(400, "invalid ciphertext: no prefix")
        version = int(match.group(1))
        if version > self.latest:
            raise Refusal(400, "invalid ciphertext: version is too new")
        if version < self.min_decryption_version:
            raise Refusal(400, "ciphertext or signature version is disallowed by policy (too old)")
        try:
            sealed = base64.b64decode(match.group(2))
            return AESGCM(self.versions[version]).decrypt(sealed[:12], sealed[12:], None)
        except ValueError:
            raise Refusal(400, "invalid ciphertext: could not decode base64") from None
        except InvalidTag:
            raise Refusal(400, "cipher: message authentication failed") from None


class TransitServer:
    """The server: its keys, who may ask, what it was asked, and what shall go wrong.

    Attributes:
        keys: By name.
        faults: Each is used by the first request that it is about.
        requests: Method and path of every request.
        sealed: Every request is answered 503.
        tokens: Tokens that are accepted.
        denied: Requests whose path contains one of these are forbidden.
    """

    mount = "transit"

    def __init__(self) -> None:
        self.keys: dict[str, TransitKey] = {}
        self.faults: deque[Fault] = deque()
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.sealed = False
        self.tokens = {TOKEN}
        self.denied: set[str] = set()
        self.address = ""
        self._lock = threading.Lock()

    @contextmanager
    def running(self, tls: ssl.SSLContext | None = None) -> Iterator[TransitServer]:
        """Listen on a free port of 127.0.0.1."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet; two would wait for an acknowledgement

            def do_GET(self) -> None:
                owner.handle(self, "GET")

            def do_POST(self) -> None:
                owner.handle(self, "POST")

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                pass  # a client that gave up

        server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        self.address = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def calls(self, part: str) -> int:
        """How many requests had this in their path."""
        return sum(part in request for request in self.requests)

    def handle(self, handler: BaseHTTPRequestHandler, method: str) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        fields = json.loads(handler.rfile.read(length) or b"{}")
        with self._lock:
            self.requests.append(f"{method} {handler.path}")
            self.headers.append(dict(handler.headers))
            fault = self._fault(handler.path)
        status, body, headers = 200, b"", {"Content-Type": "application/json"}
        try:
            if fault is None or fault.done:
                with self._lock:
                    data = self._answer(method, handler.path, fields, handler.headers)
                body = json.dumps({"data": data, "warnings": None}).encode()
            if fault is not None:
                fault.reached.set()
                if fault.wait_for is not None:
                    fault.wait_for.wait(30)
                if fault.status == 0:
                    handler.close_connection = True
                    return
                status = fault.status
                if fault.body is not None:
                    body = fault.body
                elif status != 200:
                    body = json.dumps({"errors": list(fault.errors)}).encode()
                if fault.location:
                    headers["Location"] = fault.location
        except Refusal as refusal:
            status, body = refusal.status, json.dumps({"errors": list(refusal.errors)}).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _fault(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.path in path:
                if fault.skip == 0:
                    self.faults.remove(fault)
                    return fault
                fault.skip -= 1
        return None

    def _answer(self, method: str, path: str, fields: Json, headers: Any) -> Json:
        if self.sealed:
            raise Refusal(503, "Vault is sealed")
        if headers.get("X-Vault-Token") not in self.tokens:
            raise Refusal(403, "permission denied")
        if any(part in path for part in self.denied):
            raise Refusal(403, "1 error occurred:\n\t* permission denied\n\n")
        prefix = f"/v1/{self.mount}/"
        if not path.startswith(prefix):
            raise Refusal(404, f'no handler for route "{path}". route entry not found.')
        operation, name, *rest = path.removeprefix(prefix).split("/")
        if operation == "keys" and not rest:
            if method == "POST":
                self.keys.setdefault(
                    name,
                    TransitKey(
                        name, fields.get("type", "aes256-gcm96"), fields.get("exportable", False)
                    ),
                )
            if name not in self.keys:
                raise Refusal(404)
            return self.keys[name].read()
        if name not in self.keys:
            if operation != "encrypt":
                raise Refusal(400, "encryption key not found")
            self.keys[name] = TransitKey(name)  # as a real server does for who may create
        key = self.keys[name]
        operations: dict[str, Callable[[], Json]] = {
            "keys/rotate": key.rotate,
            "keys/config": lambda: key.configure(fields),
            "keys/trim": lambda: key.trim(fields),
            "encrypt": lambda: key.encrypt(base64.b64decode(fields["plaintext"])),
            "decrypt": lambda: {
                "plaintext": base64.b64encode(key.decrypt(fields["ciphertext"])).decode()
            },
            "rewrap": lambda: key.encrypt(key.decrypt(fields["ciphertext"])),
        }
        return operations["/".join((operation, *rest))]()
