"""A cloud KMS in memory, with the methods of AWS's client, for the example in the documentation.

Encryption is real; a ciphertext opens with its key and its encryption context only. Faults: set
`offline`, or put an error code into `refusals`.

`install` puts stand-ins for `boto3` and `botocore` in place and a distribution on `sys.path` that
offers the documented code as an entry point, as an installed package would.
"""

from __future__ import annotations

import json
import os
import re
import sys
import types
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PAGE = Path(__file__).parents[2] / "docs" / "key-management.md"


class ClientError(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


class BotoCoreError(Exception):
    pass


class EndpointConnectionError(BotoCoreError):
    pass


@dataclass
class KmsKey:
    material: bytes
    state: str = "Enabled"


class CloudKmsInMemory:
    """The service."""

    def __init__(self) -> None:
        self.keys: dict[str, KmsKey] = {}
        self.aliases: dict[str, str] = {}
        self.offline = False
        self.refusals: deque[str] = deque()

    def create_key(self) -> dict[str, Any]:
        self._fail()
        arn = f"arn:aws:kms:eu-central-1:111122223333:key/{os.urandom(16).hex()}"
        self.keys[arn] = KmsKey(os.urandom(32))
        return {"KeyMetadata": {"Arn": arn}}

    def create_alias(self, *, AliasName: str, TargetKeyId: str) -> dict[str, Any]:  # noqa: N803
        self._fail()
        if AliasName in self.aliases:
            raise ClientError("AlreadyExistsException")
        self.aliases[AliasName] = TargetKeyId
        return {}

    def update_alias(self, *, AliasName: str, TargetKeyId: str) -> dict[str, Any]:  # noqa: N803
        self._fail()
        if AliasName not in self.aliases:
            raise ClientError("NotFoundException")
        self.aliases[AliasName] = TargetKeyId
        return {}

    def encrypt(self, *, KeyId: str, Plaintext: bytes, EncryptionContext: Any) -> dict[str, Any]:  # noqa: N803
        arn, key = self._key(KeyId)
        nonce = os.urandom(12)
        sealed = AESGCM(key.material).encrypt(nonce, Plaintext, _context(EncryptionContext))
        return {"KeyId": arn, "CiphertextBlob": nonce + sealed}

    def decrypt(
        self,
        *,
        KeyId: str,  # noqa: N803
        CiphertextBlob: bytes,  # noqa: N803
        EncryptionContext: Any,  # noqa: N803
    ) -> dict[str, Any]:
        arn, key = self._key(KeyId)
        try:
            plaintext = AESGCM(key.material).decrypt(
                CiphertextBlob[:12], CiphertextBlob[12:], _context(EncryptionContext)
            )
        except (InvalidTag, ValueError):
            raise ClientError("InvalidCiphertextException") from None
        return {"KeyId": arn, "Plaintext": plaintext}

    def re_encrypt(self, **fields: Any) -> dict[str, Any]:
        opened = self.decrypt(
            KeyId=fields["SourceKeyId"],
            CiphertextBlob=fields["CiphertextBlob"],
            EncryptionContext=fields["SourceEncryptionContext"],
        )
        return self.encrypt(
            KeyId=fields["DestinationKeyId"],
            Plaintext=opened["Plaintext"],
            EncryptionContext=fields["DestinationEncryptionContext"],
        )

    def schedule_key_deletion(self, *, KeyId: str, PendingWindowInDays: int) -> dict[str, Any]:  # noqa: N803
        _, key = self._key(KeyId)
        if not 7 <= PendingWindowInDays <= 30:
            raise ClientError("ValidationException")
        key.state = "PendingDeletion"
        return {}

    def close(self) -> None:
        pass

    def _key(self, key_id: str) -> tuple[str, KmsKey]:
        self._fail()
        arn = self.aliases.get(key_id, key_id)
        if arn not in self.keys:
            raise ClientError("NotFoundException")
        if self.keys[arn].state != "Enabled":
            raise ClientError("KMSInvalidStateException")
        return arn, self.keys[arn]

    def _fail(self) -> None:
        if self.offline:
            raise EndpointConnectionError
        if self.refusals:
            raise ClientError(self.refusals.popleft())


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> CloudKmsInMemory:
    """Install the documented example; the service that its `boto3.client` leads to."""
    kms = CloudKmsInMemory()
    boto3, botocore = types.ModuleType("boto3"), types.ModuleType("botocore")
    exceptions = types.ModuleType("botocore.exceptions")
    boto3.client = lambda _name, **_: kms  # type: ignore[attr-defined]
    exceptions.BotoCoreError = BotoCoreError  # type: ignore[attr-defined]
    exceptions.ClientError = ClientError  # type: ignore[attr-defined]
    for module in (boto3, botocore, exceptions):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "cloud_kms", raising=False)
    page = PAGE.read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    entry_points = re.search(r'entry-points\."(.*?)"\]\n(\S+) = "(.*?)"', page)
    assert entry_points is not None
    packages = folder / "packages"
    information = packages / "hospital_keys-1.dist-info"
    information.mkdir(parents=True)
    (packages / "cloud_kms.py").write_text(example, "utf-8")
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: hospital-keys\nVersion: 1\n"
    )
    group, name, target = entry_points.groups()
    (information / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    monkeypatch.syspath_prepend(packages)
    return kms


def documented_settings() -> str:
    """The `kms.toml` of the documentation."""
    (settings,) = re.findall(r"```toml\n# kms.toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    return str(settings)


def _context(context: Any) -> bytes:
    return json.dumps(context, sort_keys=True).encode()
