"""HashiCorp Vault's transit engine (or OpenBao's) as key manager: the key never leaves Vault.

* Data keys are made here and encrypted there, with SHA-256 of their context before them, because
  transit's `rewrap` carries no associated data along (`audit.key_manager.bind`).
* `rewrap` moves a wrapped key to the newest version inside Vault; no data key comes out.
* `destroy` raises `min_decryption_version` and trims the key: Vault cannot bring the version back,
  except from a backup of Vault itself.
* The token is read at each request from a file or an environment variable, never from settings, so
  that Vault Agent may renew it; it appears in no message.
* Every failure is `KeyringUnavailable`: sealed, unreachable, too slow, forbidden. Nothing is tried
  again here; an append that fails leaves nothing behind and may be repeated.
* Neither redirects nor proxies are followed: the token goes to `address` only.

API: https://developer.hashicorp.com/vault/api-docs/secret/transit. Package `hvac`, extra `vault`.
One transit key serves one keyring: `destroy` would take keys away from another.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from audit.envelope import KEY_BYTES
from audit.errors import Conflict, MalformedInput, Refused, VerificationFailed
from audit.key_manager import KeyringUnavailable, WrappedKey, bind, unbind
from audit.vault_settings import VaultSettings
from audit.words import count_of

OPERATORS_TOKEN_FILE: Final = "FIDUCIARY_VAULT_TOKEN_FILE"  # noqa: S105
"""Names a token file that goes before the settings: a service's token may not rotate."""

_MAX_TOKEN_BYTES: Final = 8192
_MAX_QUOTED_LENGTH: Final = 200
_KEY_TYPE: Final = "aes256-gcm96"
_CIPHERTEXT: Final = re.compile(r"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/]+=*", re.ASCII)
_KEY_ID: Final = re.compile(r"v([1-9][0-9]{0,8})", re.ASCII)


class VaultTransit:
    """One key of a transit engine; a `key_id` is its version, such as `v3`. Safe under threads."""

    def __init__(self, settings: VaultSettings) -> None:
        """Contacts nothing yet.

        Raises:
            KeyringUnavailable: When `hvac` is not installed.
        """
        try:
            # Imported on demand: whoever only verifies logs should not need an HTTP client.
            self._hvac: Any = importlib.import_module("hvac")
            self._requests: Any = importlib.import_module("requests")
        except ModuleNotFoundError as error:
            raise KeyringUnavailable(
                f"this keyring's key manager is Vault, which needs the package {error.name}",
                fix="pip install 'fiduciary[vault]'",
            ) from error
        self._settings = settings
        # A session of its own, so that neither proxies nor certificates come from the environment.
        # Its connection pool is safe under threads.
        session = self._requests.Session()
        session.trust_env = False
        session.verify = settings.ca_file or True
        self._client: Any = self._hvac.Client(
            url=settings.address.rstrip("/"),
            token="",  # not from the environment or ~/.vault-token; see _call
            timeout=settings.timeout_seconds,
            allow_redirects=False,
            session=session,
            namespace=settings.namespace or None,
        )

    @classmethod
    def from_options(cls, options: Mapping[str, str | int]) -> VaultTransit:
        """By the fields of `key-manager.toml`.

        Raises:
            MalformedInput: When they are wrong.
        """
        return cls(VaultSettings.parse(options))

    def create_key(self, *, existing: bool = False) -> None:
        """Make the transit key, or check the one that there is.

        Args:
            existing: There may be one already, which no other keyring uses.

        Raises:
            Conflict: When there is one already and `existing` is false.
            Refused: When the key could be exported, or is of a type that cannot wrap.
        """
        transit, name = self._client.secrets.transit, self._settings.key
        try:
            self._read_key()
        except _NoSuchKey:
            self._call(
                lambda: transit.create_key(
                    name, key_type=_KEY_TYPE, exportable=False, mount_point=self._settings.mount
                )
            )
        else:
            if not existing:
                raise Conflict(
                    f"Vault has a transit key {name} already",
                    fix="choose another name, or allow an existing key that no other keyring uses",
                )
        data = self._read_key()
        if data.get("exportable") or data.get("allow_plaintext_backup"):
            raise Refused(
                f"the transit key {name} can be exported, so destroying it would prove nothing",
                fix="make a transit key with exportable=false and allow_plaintext_backup=false",
            )
        if data.get("type") != _KEY_TYPE or data.get("derived"):
            raise Refused(
                f"the transit key {name} is not a plain {_KEY_TYPE} key",
                fix=f"make a transit key of type {_KEY_TYPE} without derivation",
            )

    def generate_data_key(self, context: bytes) -> tuple[bytes, WrappedKey]:
        """See `KeyManager`."""
        # Not Vault's own `datakey`: what it wraps could not be bound to the context.
        key = secrets.token_bytes(KEY_BYTES)
        return key, self.wrap(key, context)

    def wrap(self, key: bytes, context: bytes) -> WrappedKey:
        """See `KeyManager`."""
        plaintext = base64.b64encode(bind(key, context)).decode("ascii")
        return self._wrapped(
            lambda: self._client.secrets.transit.encrypt_data(
                self._settings.key, plaintext=plaintext, mount_point=self._settings.mount
            )
        )

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        """See `KeyManager`."""
        ciphertext = _ciphertext(wrapped)
        data = self._data(
            lambda: self._client.secrets.transit.decrypt_data(
                self._settings.key, ciphertext=ciphertext, mount_point=self._settings.mount
            )
        )
        try:
            plaintext = base64.b64decode(data["plaintext"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise self._unreadable() from None  # the cause may quote the key
        return unbind(plaintext, context)

    def rewrap(self, wrapped: WrappedKey, context: bytes) -> WrappedKey:  # noqa: ARG002
        """See `KeyManager`. The context is inside the ciphertext and stays there."""
        ciphertext = _ciphertext(wrapped)
        return self._wrapped(
            lambda: self._client.secrets.transit.rewrap_data(
                self._settings.key, ciphertext=ciphertext, mount_point=self._settings.mount
            )
        )

    def rotate(self) -> str:
        """See `KeyManager`."""
        transit, settings = self._client.secrets.transit, self._settings
        self._call(lambda: transit.rotate_key(settings.key, mount_point=settings.mount))
        return f"v{_version(self._read_key(), 'latest_version')}"

    def destroy(self, key_id: str) -> None:
        """See `KeyManager`; older versions go too."""
        match = _KEY_ID.fullmatch(key_id)
        if match is None:
            raise MalformedInput(f"malformed key_id: expected a version such as v3, got {key_id}")
        oldest_kept = int(match.group(1)) + 1
        transit, settings = self._client.secrets.transit, self._settings
        name, mount = settings.key, settings.mount
        data = self._read_key()
        if _version(data, "latest_version") < oldest_kept:
            self.rotate()  # the newest version cannot be trimmed; this one wraps nothing
        # One after the other: encryption must not fall below decryption, nor either below what is
        # there. Repeated after a crash, each does what is left.
        for field in ("min_encryption_version", "min_decryption_version"):
            if _version(data, field) < oldest_kept:
                change = {field: oldest_kept}
                self._call(
                    partial(transit.update_key_configuration, name, mount_point=mount, **change)
                )
        if _version(data, "min_available_version") < oldest_kept:
            self._call(partial(transit.trim_key, name, min_version=oldest_kept, mount_point=mount))

    def close(self) -> None:
        """See `KeyManager`."""
        self._client.adapter.close()

    def _read_key(self) -> dict[str, Any]:
        settings = self._settings
        return self._data(
            lambda: self._client.secrets.transit.read_key(settings.key, mount_point=settings.mount)
        )

    def _wrapped(self, operation: Callable[[], Any]) -> WrappedKey:
        ciphertext = self._data(operation).get("ciphertext")
        match = _CIPHERTEXT.fullmatch(ciphertext) if isinstance(ciphertext, str) else None
        if match is None:
            raise self._unreadable()
        return WrappedKey(f"v{match.group(1)}", match.group().encode("ascii"))

    def _data(self, operation: Callable[[], Any]) -> dict[str, Any]:
        answer = self._call(operation)
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, dict):
            raise self._unreadable()
        return data

    def _call(self, operation: Callable[[], Any]) -> Any:
        """Do one request with the present token."""
        address, key = self._settings.address, self._settings.key
        errors, transport = self._hvac.exceptions, self._requests.exceptions
        self._client.token = self._token()
        try:
            answer = operation()
        except errors.InvalidRequest as error:
            raise self._refusal(error) from None
        except (errors.Forbidden, errors.Unauthorized):
            raise KeyringUnavailable(
                f"Vault at {address} does not allow this with the present token",
                fix="renew the token, or extend its policy as docs/key-management.md lists it",
            ) from None
        except errors.InvalidPath:
            raise _NoSuchKey(
                f"Vault at {address} has no transit key {key} under {self._settings.mount}",
                fix="check mount, key and namespace; never make a lost key anew under its old name",
            ) from None
        except errors.VaultDown:
            raise KeyringUnavailable(
                f"Vault at {address} is sealed or not active", fix="unseal it, then try again"
            ) from None
        except errors.VaultError as error:
            raise KeyringUnavailable(
                f"Vault at {address} failed: {type(error).__name__}{_quoted(error)}",
                fix="look into Vault's own log, then try again",
            ) from None
        except transport.SSLError:
            raise KeyringUnavailable(
                f"Vault at {address} has a certificate that is not trusted",
                fix="name the CA's PEM file as ca_file",
            ) from None
        except transport.Timeout:
            raise KeyringUnavailable(
                f"Vault at {address} did not answer in"
                f" {count_of(self._settings.timeout_seconds, 'second')}",
                fix="check Vault and the network, then try again",
            ) from None
        except (transport.RequestException, OSError) as error:
            raise KeyringUnavailable(
                f"Vault at {address} cannot be reached: {type(error).__name__}",
                fix="check address, Vault and the network, then try again",
            ) from None
        except (AttributeError, TypeError, ValueError):
            # hvac trusts the shape of an error's JSON; something else than Vault answered.
            raise self._unreadable() from None
        if 300 <= getattr(answer, "status_code", 200) < 400:
            raise KeyringUnavailable(
                f"Vault at {address} redirects, and the token is not sent elsewhere",
                fix="name the active Vault, or a load balancer in front of it, as address",
            )
        return answer

    def _refusal(self, error: Any) -> KeyringUnavailable | VerificationFailed:
        """What a 400 means; only Vault's own words tell."""
        said = ", ".join(map(str, error.errors or ()))
        if "disallowed by policy (too old)" in said or "version is too new" in said:
            return KeyringUnavailable(
                f"Vault has no such version of the transit key {self._settings.key} (any more)",
                fix="a destroyed version cannot come back; was keyring or Vault restored alone?",
            )
        if "message authentication failed" in said or "invalid ciphertext" in said:
            return VerificationFailed("wrapped key does not open: it was changed")
        return KeyringUnavailable(
            f"Vault at {self._settings.address} refused a request{_quoted(error)}",
            fix="check mount, key and the key's configuration in Vault",
        )

    def _token(self) -> str:
        settings = self._settings
        source = os.environ.get(OPERATORS_TOKEN_FILE) or settings.token_file
        if not source:
            token = os.environ.get(settings.token_environment, "")
            source = f"the environment variable {settings.token_environment}"
        else:
            try:
                with Path(source).open("rb") as file:
                    if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IROTH:
                        raise KeyringUnavailable(
                            f"everybody on this machine can read the Vault token {source}",
                            fix=f"chmod o-rwx {source}, and renew the token",
                        )
                    token = file.read(_MAX_TOKEN_BYTES).decode("ascii", "replace")
            except OSError as error:
                raise KeyringUnavailable(
                    f"the Vault token {source} cannot be read: {error.strerror}",
                    fix="check that Vault Agent runs, and the file's permissions",
                ) from error
        token = token.strip()
        if not token or not token.isascii() or not token.isprintable():
            raise KeyringUnavailable(f"there is no Vault token in {source}", fix="put one there")
        return token

    def _unreadable(self) -> KeyringUnavailable:
        return KeyringUnavailable(
            f"what answers at {self._settings.address} is not Vault's transit engine",
            fix="check address and mount",
        )


class _NoSuchKey(KeyringUnavailable):
    """Vault has no such path."""


def _version(data: Mapping[str, Any], field: str) -> int:
    version = data.get(field)
    if type(version) is not int or version < 0:
        raise KeyringUnavailable(
            f"Vault says no {field} of the transit key", fix="check that it is Vault that answers"
        )
    return version


def _ciphertext(wrapped: WrappedKey) -> str:
    match = _CIPHERTEXT.fullmatch(wrapped.data.decode("ascii", "replace"))
    if match is None or f"v{match.group(1)}" != wrapped.key_id:
        raise VerificationFailed("wrapped key does not open: it is none of Vault's, or was changed")
    return match.group()


def _quoted(error: Any) -> str:
    said = ", ".join(map(str, error.errors or ()))[:_MAX_QUOTED_LENGTH]
    return f" ({said})" if said and said.isprintable() else ""
