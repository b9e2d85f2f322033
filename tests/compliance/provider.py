"""A small OpenID provider, as a process of its own: `python -m tests.compliance.provider FOLDER`.

* Discovery, keys, authorization endpoint and token endpoint over TLS; the code flow with PKCE.
  A code is good once, for one client, one redirect and one verifier.
* It logs in whoever `FOLDER/person.json` describes, at once: there is no page to click through.
* `FOLDER/mischief.json` makes it issue tokens that a service must refuse: other claims, another
  algorithm, another key, a header of its own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

CLIENT = "fiduciary"
SECRET = "s3cret&of=the client"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class State:
    """Keys, and the codes that were handed out."""

    def __init__(self, folder: Path, issuer: str) -> None:
        self.folder = folder
        self.issuer = issuer
        self.keys: dict[str, ECKey | RSAKey] = {"first": ECKey.generate_key("P-256")}
        self.present = "first"
        self.strangers = ECKey.generate_key("P-256")
        self.codes: dict[str, dict[str, str]] = {}
        self.last_token = ""
        self.asked: dict[str, int] = {}

    def read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return document

    def jwks(self) -> dict[str, Any]:
        keys = [
            {**key.as_dict(private=False), "kid": kid, "use": "sig"}
            for kid, key in self.keys.items()
        ]
        twin = self.read("mischief.json").get("twin")
        if twin:
            keys.append({**self.strangers.as_dict(private=False), "kid": self.present})
        return {"keys": keys}

    def rotate(self, kind: str) -> None:
        kid = secrets.token_hex(4)
        key = RSAKey.generate_key(2048) if kind == "RSA" else ECKey.generate_key("P-384")
        self.keys = {kid: key}
        self.present = kid

    def id_token(self, granted: dict[str, str]) -> str:
        mischief = self.read("mischief.json")
        if mischief.get("replay") and self.last_token:
            return self.last_token
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": granted["nonce"],
            **self.read("person.json"),
            **{
                name: now + value if name in ("iat", "exp", "nbf") else value
                for name, value in mischief.get("claims", {}).items()
            },
        }
        for name in mischief.get("without", []):
            claims.pop(name, None)
        self.last_token = self.sign(claims, mischief)
        return self.last_token

    def sign(self, claims: dict[str, Any], mischief: dict[str, Any]) -> str:
        payload = json.dumps(claims).encode()
        if "payload" in mischief:
            payload = mischief["payload"].encode()
        key = self.keys[self.present]
        algorithm = {"EC": {"P-256": "ES256", "P-384": "ES384"}.get(getattr(key, "curve_name", ""))}
        header: dict[str, Any] = {
            "alg": algorithm.get(key.key_type) or "RS256",
            "kid": self.present,
            **mischief.get("header", {}),
        }
        if mischief.get("unsigned"):
            return f"{encode(json.dumps(header).encode())}.{encode(payload)}."
        if mischief.get("public_key_as_secret"):
            pem = key.as_pem(private=False)
            head = encode(json.dumps({**header, "alg": "HS256"}).encode())
            signed = f"{head}.{encode(payload)}"
            return f"{signed}.{encode(hmac.digest(pem, signed.encode(), 'sha256'))}"
        if mischief.get("strangers_key"):
            own = (
                {"jwk": self.strangers.as_dict(private=False)} if mischief.get("bring_key") else {}
            )
            return self._signed({**header, **own, "alg": "ES256"}, payload, self.strangers)
        token = self._signed(header, payload, key)
        if mischief.get("bent"):
            head, body, signature = token.split(".")
            bent = body[:-2] + ("AA" if body[-2:] != "AA" else "BB")
            return f"{head}.{bent}.{signature}"
        return token

    @staticmethod
    def _signed(header: dict[str, Any], payload: bytes, key: ECKey | RSAKey) -> str:
        # joserfc refuses odd headers on both sides: the signature is made of an honest one.
        alg = str(header["alg"])
        signed = encode(json.dumps(header).encode()) + "." + encode(payload)
        model = jws.JWSRegistry.algorithms[alg]
        return f"{signed}.{encode(model.sign(signed.encode(), key))}"


class Handler(BaseHTTPRequestHandler):
    state: State
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        self.state.asked[address.path] = self.state.asked.get(address.path, 0) + 1
        match address.path:
            case "/.well-known/openid-configuration":
                issuer = self.state.issuer
                self._json(
                    200,
                    {
                        "issuer": self.state.read("mischief.json").get("issuer", issuer),
                        "authorization_endpoint": f"{issuer}/authorize",
                        "token_endpoint": f"{issuer}/token",
                        "jwks_uri": f"{issuer}/keys",
                    },
                )
            case "/keys":
                self._json(200, self.state.jwks())
            case "/asked":
                self._json(200, self.state.asked)
            case "/rotate":
                self.state.rotate(query["kind"])
                self._json(200, {})
            case "/authorize":
                self._authorize(query)
            case _:
                self._json(404, {})

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        fields = {name: values[0] for name, values in form.items()}
        granted = self.state.codes.pop(fields.get("code", ""), None)
        if self._client() != (CLIENT, SECRET):
            self._json(401, {"error": "invalid_client"})
        elif granted is None or not self._is_owner(granted, fields):
            self._json(400, {"error": "invalid_grant"})
        else:
            token = self.state.id_token(granted)
            self._json(200, {"access_token": "x", "token_type": "Bearer", "id_token": token})

    def _authorize(self, query: dict[str, str]) -> None:
        answer = {"state": query["state"]}
        if query["client_id"] != CLIENT or query["code_challenge_method"] != "S256":
            answer["error"] = "invalid_request"
        elif not self.state.read("person.json"):
            answer["error"] = "access_denied"
        else:
            code = secrets.token_urlsafe(24)
            self.state.codes[code] = query
            answer["code"] = code
        self.send_response(302)
        self.send_header("location", f"{query['redirect_uri']}?{urlencode(answer)}")
        self.send_header("content-length", "0")
        self.end_headers()

    def _client(self) -> tuple[str, str]:
        kind, _, value = self.headers.get("authorization", "").partition(" ")
        name, _, secret = base64.b64decode(value).decode().partition(":")
        return (unquote(name), unquote(secret)) if kind == "Basic" else ("", "")

    @staticmethod
    def _is_owner(granted: dict[str, str], fields: dict[str, str]) -> bool:
        challenge = encode(hashlib.sha256(fields["code_verifier"].encode()).digest())
        return (
            fields["grant_type"] == "authorization_code"
            and fields["redirect_uri"] == granted["redirect_uri"]
            and challenge == granted["code_challenge"]
        )

    def _json(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def main(folder: Path) -> None:
    """Serve with the certificate in the folder; the port is told on standard output."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    issuer = f"https://127.0.0.1:{server.server_port}"
    Handler.state = State(folder, issuer)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
