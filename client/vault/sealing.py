"""How the vault's rows are sealed, and the digest that names a dataset's rows.

Formal guarantees:

* A record opens only with its subject's key, at its own position of its own dataset, under its own
  subject: all three are associated data of AES-256-GCM.
* A datasheet opens only for the name, version and random id it was sealed for.
* `DatasetDigest` covers ciphertext, position and pseudonym. It needs no key to recompute, tells
  nothing of the text (fresh nonces, keyed pseudonyms), and changes with every erasure.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict

from pydantic import TypeAdapter, ValidationError

from audit.canonical import canonical_bytes, parse_canonical, parse_canonical_object
from audit.envelope import NONCE_BYTES, Envelope, seal, unseal
from audit.errors import MalformedInput, VerificationFailed
from client.vault.contents import Datasheet, Done, Record, Terms

DATASHEET_KEY = "vault:datasheets"
"""Name of the data key that seals what is known of datasets; no single subject's data."""


def seal_record(key: bytes, dataset_id: str, position: int, record: Record) -> bytes:
    """Encrypt one record under its subject's key, bound to its place.

    A record without a group, or without terms of its own, has the bytes that records had before
    there were such things.
    """
    said: dict[str, object] = {"label": record.label, "text": record.text}
    if record.group:
        said["group"] = record.group
    if record.terms.purposes is not None:
        said["purposes"] = list(record.terms.purposes)
    if record.terms.legal_basis:
        said["legal_basis"] = record.terms.legal_basis
    if record.originals:
        said["originals"] = record.originals
    plain = canonical_bytes(said)
    return _sealed(key, plain, _record_data(dataset_id, position, record.subject))


def open_record(key: bytes, dataset_id: str, position: int, subject: str, sealed: bytes) -> Record:
    """Decrypt one record.

    Raises:
        VerificationFailed: When the row was altered, or is not at its own place.
    """
    try:
        plain = _opened(key, sealed, _record_data(dataset_id, position, subject))
    except (VerificationFailed, MalformedInput) as error:
        raise VerificationFailed(
            f"record {position} does not open: it was altered or moved",
            fix="restore the vault from a backup, or remove the dataset and add it again",
        ) from error
    content = parse_canonical(plain)
    if not isinstance(content, dict):
        raise VerificationFailed(f"record {position} holds no record")
    text, label, group = (str(content.get(name, "")) for name in ("text", "label", "group"))
    purposes = content.get("purposes")
    said = None if purposes is None else _names(purposes)
    terms = Terms(said, str(content.get("legal_basis", "")))
    return Record(subject, text, label, group, terms, str(content.get("originals", "")))


def seal_datasheet(key: bytes, dataset_id: str, name: str, version: int, sheet: Datasheet) -> bytes:
    """Encrypt a datasheet, bound to its dataset."""
    plain = sheet.model_dump_json().encode()
    return _sealed(key, plain, _datasheet_data(dataset_id, name, version))


def open_datasheet(
    key: bytes, dataset_id: str, name: str, version: int, sealed: bytes
) -> Datasheet:
    """Decrypt a datasheet.

    Raises:
        VerificationFailed: When it was altered, or belongs to another dataset.
    """
    try:
        plain = _opened(key, sealed, _datasheet_data(dataset_id, name, version))
    except (VerificationFailed, MalformedInput) as error:
        raise VerificationFailed(
            f"the datasheet of {name!r} was altered", fix="restore the vault from a backup"
        ) from error
    return Datasheet.model_validate_json(plain)


def seal_progress(key: bytes, dataset_id: str, work: str, done: Done) -> bytes:
    """Encrypt how far an ingest has come, bound to the version that it makes."""
    return _sealed(key, canonical_bytes({"work": work, **asdict(done)}), _progress_data(dataset_id))


def open_progress(key: bytes, dataset_id: str, sealed: bytes) -> tuple[str, Done]:
    """Which work it is, and how far it has come.

    Raises:
        VerificationFailed: When it was altered, or belongs to another dataset.
    """
    said = parse_canonical_object(_opened(key, sealed, _progress_data(dataset_id)))
    try:
        return str(said.pop("work")), TypeAdapter(Done).validate_python(said)
    except (KeyError, ValidationError) as error:
        raise VerificationFailed("how far an ingest came cannot be read") from error


class DatasetDigest:
    """SHA-256 over a dataset's sealed rows in order, built row by row."""

    def __init__(self, dataset_id: str) -> None:
        self._hash = hashlib.sha256(b"fiduciary.dataset/1\x00" + dataset_id.encode())

    def add(self, position: int, subject: str, sealed: bytes) -> None:
        """Take in one row; every part has a fixed length or its length before it."""
        self._hash.update(position.to_bytes(8, "big"))
        self._hash.update(len(subject).to_bytes(8, "big") + subject.encode())
        self._hash.update(len(sealed).to_bytes(8, "big") + sealed)

    def digest(self) -> str:
        """`sha256:<hex>` of the rows so far."""
        return f"sha256:{self._hash.hexdigest()}"


def _sealed(key: bytes, plain: bytes, associated_data: bytes) -> bytes:
    envelope = seal(key, plain, associated_data)
    return envelope.nonce + envelope.ciphertext


def _opened(key: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    return unseal(key, Envelope(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]), associated_data)


def _record_data(dataset_id: str, position: int, subject: str) -> bytes:
    return canonical_bytes(
        {
            "format": "fiduciary.record/1",
            "dataset": dataset_id,
            "position": position,
            "subject": subject,
        }
    )


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _progress_data(dataset_id: str) -> bytes:
    return canonical_bytes({"format": "fiduciary.ingest/1", "dataset": dataset_id})


def _datasheet_data(dataset_id: str, name: str, version: int) -> bytes:
    return canonical_bytes(
        {
            "format": "fiduciary.datasheet/1",
            "dataset": dataset_id,
            "name": name,
            "version": version,
        }
    )
