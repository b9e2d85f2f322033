"""Which key opens what in the vault: one for each subject's rows, one for datasheets."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
import unicodedata
from collections.abc import Collection

from audit.errors import MalformedInput, NotFound
from audit.log import subject_key_name
from client.vault import sealing
from client.vault.contents import KeyStore


class VaultKeys:
    """The keys of one vault. A subject who was readmitted has a key of a later generation."""

    def __init__(self, connection: sqlite3.Connection, store: KeyStore) -> None:
        self._connection = connection
        self._store = store
        self._pseudonym_secret = store.secret("subject-pseudonym")

    def pseudonym(self, subject_id: str) -> str:
        """The keyed pseudonym of a subject: HMAC-SHA256 under a secret of this site, in hex.

        Surrounding space and Unicode form do not matter; case does. Two sites give one person
        unrelated pseudonyms.

        Raises:
            MalformedInput: When the id is empty.
        """
        normal = unicodedata.normalize("NFC", subject_id).strip()
        if not normal:
            raise MalformedInput("the subject id is empty", fix="give the id used in the file")
        message = b"fiduciary.subject/1\x00" + normal.encode()
        return hmac.new(self._pseudonym_secret, message, hashlib.sha256).hexdigest()

    def split_secret(self) -> bytes:
        """The site's secret for the held-out split by subject (`client.learning.data`)."""
        return self._store.secret("held-out-split")

    def generations(self) -> dict[str, int]:
        """The generation of every known subject's key, by pseudonym; erased ones included."""
        rows = self._connection.execute("SELECT subject, generation FROM subject_keys")
        return {subject: int(generation) for subject, generation in rows}

    def of_datasheets(self) -> bytes:
        """The key that seals datasheets, and how far an ingest came."""
        return self._store.generate_data_key(sealing.DATASHEET_KEY)

    def of_subject(self, subject: str) -> bytes | None:
        """The data key of a pseudonym; None where there is none, or it was destroyed."""
        try:
            return self._store.data_key(self._name_of(subject))
        except NotFound:
            return None

    def ensure(self, subject: str) -> bytes:
        """The data key of a pseudonym, made when there is none. Call it inside a transaction."""
        self._connection.execute("INSERT OR IGNORE INTO subject_keys VALUES (?, 1)", (subject,))
        return self._store.generate_data_key(self._name_of(subject))

    def ensure_all(self, subjects: Collection[str]) -> dict[str, bytes]:
        """As `ensure` for several: their keys reach the disk together."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO subject_keys VALUES (?, 1)", ((one,) for one in subjects)
        )
        names = {subject: self._name_of(subject) for subject in subjects}
        self._store.make_data_keys(names.values())
        return {subject: self._store.generate_data_key(name) for subject, name in names.items()}

    def destroy(self, subject: str) -> None:
        """Destroy a pseudonym's data key. Repeating it is harmless."""
        self._store.destroy(self._name_of(subject))

    def _name_of(self, subject: str) -> str:
        row = self._connection.execute(
            "SELECT generation FROM subject_keys WHERE subject = ?", (subject,)
        ).fetchone()
        return subject_key_name(subject, 1 if row is None else int(row[0]))
