"""The login provider of `tests.compliance.provider`, started and told what to do, and a browser."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from compliance.service.certificates import self_signed
from tests.compliance.running import Clock

ROOT = Path(__file__).parents[2]
SUBJECT = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"


class PresentClock(Clock):
    """The real time: the provider knows no other."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def advance(self, **duration: float) -> None:
        self.ahead += timedelta(**duration)


@dataclass
class Provider:
    """The running provider, and what it is told to do."""

    folder: Path
    port: int
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        context = ssl.create_default_context(cafile=self.folder / "certificate.pem")
        self.http = httpx.Client(
            base_url=f"https://127.0.0.1:{self.port}", verify=context, trust_env=False
        )

    def person(self, name: str, *groups: str, subject: str = SUBJECT, **claims: Any) -> None:
        known = {"sub": subject, "preferred_username": name, "groups": list(groups), **claims}
        self._write("person.json", known)

    def mischief(self, **what: Any) -> None:
        self._write("mischief.json", what)

    def _write(self, name: str, document: dict[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps(document))

    def asked(self) -> int:
        """How often its keys were asked for."""
        return int(self.http.get("/asked").json().get("/keys", 0))

    def authorize(self, address: str) -> str:
        """What a browser does: the code that comes back."""
        answer = self.http.get(address)
        assert answer.status_code == 302, answer.text
        return parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]

    def nobody(self) -> None:
        """Nobody is known any more."""
        self._write("person.json", {})

    def browser(self, folder: Path) -> Path:
        """A program that opens an address as a person's browser does, and trusts the provider."""
        program = folder / "browser"
        program.write_text(
            f"#!{sys.executable}\nimport httpx, ssl, sys\n"
            f"ca = {str(self.folder / 'certificate.pem')!r}\n"
            "context = ssl.create_default_context(cafile=ca)\n"
            "print(httpx.get(sys.argv[1], verify=context, follow_redirects=True).text)\n"
        )
        program.chmod(0o700)
        return program


@contextmanager
def started(folder: Path) -> Iterator[Provider]:
    """The provider as a process of its own."""
    key, certificate = self_signed(("127.0.0.1",), datetime.now(UTC))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    command = [sys.executable, "-m", "tests.compliance.provider", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        provider = Provider(folder, int(process.stdout.readline()))
        yield provider
        provider.http.close()
        process.kill()
