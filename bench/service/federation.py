"""A service with fifty sites that have one plan, a copy for the bare server, and their calls."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from audit.log import utc_clock
from bench.service.load import FRESH
from compliance.service.folder import Folder, NewService, create_folder
from compliance.service.settings import DEFAULT_DATABASE_URL
from tests.compliance.federation import Coordinator, Site
from tests.compliance.running import Clock, RunningService, running


class _Now(Clock):
    """The present time."""

    def __call__(self) -> Any:
        return utc_clock()


@dataclass(frozen=True)
class Federation:
    """What both servers serve.

    Attributes:
        folder: Of the service.
        copy: The same for the bare server.
        plan_id: The plan of all sites.
        tokens: Each site's.
        certificates: For each site its certificate and key, in one PEM file.
        officer: An officer's token.
    """

    folder: Folder
    copy: Folder
    plan_id: str
    tokens: dict[str, str]
    certificates: list[str]
    officer: str

    def mixed(self) -> list[list[str]]:
        """For each site its calls: three that read, and one of an officer that is recorded."""
        calls = []
        for number, (site, token) in enumerate(self.tokens.items()):
            document = {
                "request_id": FRESH,
                "right": "erasure",
                "jurisdiction": "gdpr",
                "sealed": {site: base64.b64encode(secrets.token_bytes(300)).decode()},
            }
            turn = [
                request("GET", f"/v1/plans/{self.plan_id}", token),
                request("GET", f"/v1/sites/{site}", token),
                request("GET", f"/v1/plans/{self.plan_id}", token),
                request("POST", "/v1/subject-requests", self.officer, document),
            ]
            calls.append(turn[number % 4 :] + turn[: number % 4])
        return calls


def request(method: str, path: str, token: str, document: Any = None) -> str:
    """A request as it is sent."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", f"authorization: Bearer {token}"]
    if document is None:
        return "\r\n".join([*lines, "", ""])
    body = json.dumps(document)
    lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", body])


def founded(folder: Path, addresses: tuple[str, str] | None, sites: int) -> Federation:
    """Make the service, let its sites join, and agree on a plan.

    Args:
        folder: Where to.
        addresses: PostgreSQL: an empty database, and the name of one to make as its copy.
        sites: How many.
    """
    url = DEFAULT_DATABASE_URL if addresses is None else _sqlalchemy(addresses[0])
    new = NewService("127.0.0.1", 8443, "127.0.0.1", "bench.test/log", url)
    made = create_folder(folder / "ours", new, utc_clock)
    tokens: dict[str, str] = {}
    certificates: list[str] = []
    with running(made.path, _Now()) as service:
        coordinator = Coordinator(service)
        coordinator.register()
        for number in range(sites):
            site = coordinator.welcome(f"site-{number}")
            if site.token is None:
                raise TypeError("the site has no token")
            tokens[site.name] = site.token
            certificates.append(_certificate_file(folder, service, site))
        plan_id = coordinator.approved_plan(tuple(tokens))
        officer = service.token("officer")
    copy = folder / "bare"
    shutil.copytree(made.path, copy)
    if addresses is not None:
        import psycopg

        address, name = addresses
        base = address.rpartition("/")[0]
        with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {address.rpartition('/')[2]}")
        settings = Folder(copy).settings
        text = settings.read_text("utf-8")
        settings.write_text(text.replace(url, _sqlalchemy(f"{base}/{name}")), "utf-8")
    return Federation(made, Folder(copy), plan_id, tokens, certificates, officer)


def _certificate_file(folder: Path, service: RunningService, site: Site) -> str:
    key = site.node_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / f"{site.name}.pem"
    path.write_text((service.certificate_of(site.name) or "") + key.decode("ascii"), "ascii")
    return str(path)


def _sqlalchemy(address: str) -> str:
    return address.replace("postgresql:", "postgresql+psycopg:")
