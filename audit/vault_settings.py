"""Where a keyring's transit key is, and where the token for it lies. Holds no secret itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final
from urllib.parse import urlsplit

from audit.errors import MalformedInput, Refused

DEFAULT_TIMEOUT_SECONDS: Final = 10
"""An append waits so long at most for each of connecting and answering."""

_MAX_TIMEOUT_SECONDS: Final = 60
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", re.ASCII)
_MOUNT: Final = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", re.ASCII)


@dataclass(frozen=True)
class VaultSettings:
    """Where the transit key is.

    Attributes:
        address: `https://HOST:PORT`; `http` only to this machine, as for Vault Agent.
        key: Name of the transit key.
        mount: Where the transit engine is mounted.
        namespace: Of Vault Enterprise or OpenBao; empty for none.
        ca_file: PEM file of the CA of Vault's certificate; empty for the public ones.
        token_file: File that holds the token, such as the sink of Vault Agent.
        token_environment: Environment variable that holds it instead.
        timeout_seconds: For connecting, and again for the answer.
    """

    address: str
    key: str
    mount: str = "transit"
    namespace: str = ""
    ca_file: str = ""
    token_file: str = ""
    token_environment: str = ""
    timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        for field in fields(self):
            expected = int if field.name == "timeout_seconds" else str
            if type(getattr(self, field.name)) is not expected:
                raise MalformedInput(f"malformed Vault settings: {field.name} is not {expected}")
        try:
            url = urlsplit(self.address)
            host, _ = url.hostname, url.port
        except ValueError as error:
            raise MalformedInput(f"malformed Vault settings: address: {error}") from error
        if url.scheme not in {"https", "http"} or not host or url.path not in {"", "/"}:
            raise MalformedInput(
                f"malformed Vault settings: address {self.address}, expected https://HOST:PORT"
            )
        if url.query or url.fragment or url.username or url.password:
            raise MalformedInput("malformed Vault settings: address holds more than host and port")
        if url.scheme == "http" and host not in _LOOPBACK:
            raise Refused(
                f"{self.address} would send data keys and the token unencrypted",
                fix="use https, or http to a Vault Agent on this machine",
            )
        if not _NAME.fullmatch(self.key) or not _MOUNT.fullmatch(self.mount):
            raise MalformedInput("malformed Vault settings: key or mount is not a plain name")
        if bool(self.token_file) == bool(self.token_environment):
            raise MalformedInput(
                "malformed Vault settings: expected either token_file or token_environment"
            )
        if not 1 <= self.timeout_seconds <= _MAX_TIMEOUT_SECONDS:
            raise MalformedInput(
                f"malformed Vault settings: timeout_seconds must be 1 to {_MAX_TIMEOUT_SECONDS}"
            )

    @classmethod
    def parse(cls, options: Mapping[str, str | int]) -> VaultSettings:
        """By the fields of `key-manager.toml`.

        Raises:
            MalformedInput: When they are wrong.
            Refused: When keys would travel unencrypted.
        """
        if unknown := sorted(options.keys() - {field.name for field in fields(cls)}):
            raise MalformedInput(f"malformed Vault settings: unknown {', '.join(unknown)}")
        if missing := sorted({"address", "key"} - options.keys()):
            raise MalformedInput(f"malformed Vault settings: without {', '.join(missing)}")
        values: dict[str, Any] = dict(options)
        return cls(**values)

    def options(self) -> dict[str, str | int]:
        """As `key-manager.toml` holds them, without what is as by default."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
