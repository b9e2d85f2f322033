"""Originals of what was replaced, for the one who holds a key that the site does not have.

* Only with `[reveal]` in `deidentify.toml`, and only of the kinds that it names.
* Sealed to a public key (`audit.hpke`): the site can seal and cannot open. The `info` names the
  subject: what was sealed of one opens as nobody else's.
* What is sealed lies inside the record, which is sealed under its subject's key. So both keys are
  needed, and an erasure ends it with the record, in backups too.
* Revealing needs the private key, a reason, and an entry in the site's journal before anything is
  shown.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from audit.canonical import canonical_bytes
from audit.errors import MalformedInput, NotFound, VerificationFailed
from audit.hpke import open_with, seal_to
from audit.log import Entry
from client.deidentification.pipeline import Original
from client.subject_trail import REVEALED, JournalWriter
from client.vault import Vault


def seal_originals(originals: Sequence[Original], public_key: bytes, subject: str) -> str:
    """Seal what was replaced in one record, in base64; empty when there is nothing.

    Args:
        originals: With their places in the de-identified text.
        public_key: Raw X25519, 32 bytes.
        subject: The subject's pseudonym.

    Raises:
        MalformedInput: When the key is a weak point.
    """
    if not originals:
        return ""
    try:
        sealed = seal_to(public_key, json.dumps(originals).encode(), _info(subject))
    except MalformedInput as error:
        raise MalformedInput(
            "the key of [reveal] is no usable X25519 key", fix="see `client deidentify reveal-key`"
        ) from error
    return base64.b64encode(sealed).decode()


def open_originals(sealed: str, key: X25519PrivateKey, subject: str) -> list[Original]:
    """Open what was sealed of one record.

    Raises:
        VerificationFailed: When it was sealed to another key or of another subject, or altered.
    """
    try:
        opened = open_with(key, base64.b64decode(sealed, validate=True), _info(subject))
    except (VerificationFailed, binascii.Error) as error:
        raise VerificationFailed(
            "the originals do not open with this key",
            fix="use the key whose public half was in deidentify.toml when the dataset was added",
        ) from error
    return [Original(*one) for one in json.loads(opened)]


@dataclass(frozen=True)
class Revealed:
    """One record as it was, as far as originals were kept.

    Attributes:
        text: With originals of the kinds that can be revealed.
        originals: How many were put back.
    """

    text: str
    originals: int


def reveal(
    vault: Vault,
    dataset: str,
    subject_id: str,
    key: X25519PrivateKey,
    journal: JournalWriter,
    actor: str,
    reason: str,
) -> list[Revealed]:
    """Put the originals back into one subject's records of a dataset.

    Args:
        vault: The site's data.
        dataset: The dataset.
        subject_id: The subject's id, as it stands in the source.
        key: The private key.
        journal: The site's journal.
        actor: Who asks, such as `site:north`.
        reason: Why; it goes into the journal.

    Raises:
        MalformedInput: When no reason is given.
        NotFound: When there is no such dataset, or it holds nothing of the subject to reveal.
        VerificationFailed: When the key is another.
    """
    if not reason.strip():
        raise MalformedInput("no reason given", fix="say why with --reason")
    subject = vault.pseudonym(subject_id)
    version = vault.dataset(dataset)
    records = [
        record
        for record in vault.each_example(dataset)
        if record.subject == subject and record.originals
    ]
    if not records:
        raise NotFound(
            f"{dataset} holds no originals of this subject",
            fix="[reveal] in deidentify.toml must have been there when the dataset was added",
        )
    opened = [open_originals(record.originals, key, subject) for record in records]
    journal.record(
        Entry(
            actor=actor,
            action=REVEALED,
            object=f"subject:{subject}",
            subject=subject,
            subject_generation=vault.generations()[subject],
            payload={
                "dataset": dataset,
                "version": version.version,
                "digest": version.digest,
                "records": len(records),
                "reason": reason.strip(),
            },
        )
    )
    return [
        Revealed(_put_back(record.text, originals), len(originals))
        for record, originals in zip(records, opened, strict=True)
    ]


def _put_back(text: str, originals: Sequence[Original]) -> str:
    for original in sorted(originals, reverse=True):
        text = text[: original.start] + original.text + text[original.end :]
    return text


def _info(subject: str) -> bytes:
    return canonical_bytes({"format": "fiduciary.originals/1", "subject": subject})
