"""A dataset's de-identified records as a JSON Lines file, for a purpose that the journal tells.

* The entry in the site's journal comes first: no entry, no file.
* The file appears complete or not at all, readable by its owner alone.
* Who objected or asked for restriction is left out, as in training. A subject is a keyed pseudonym.
* What is exported is out of the vault's reach: an erasure later does not change the file. The
  journal says which datasets were exported, when and why, so that somebody can go and look.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from audit.durable import private_temporary, publish_durably
from audit.errors import Conflict, MalformedInput, NotFound
from audit.log import Entry
from client.subject_trail import JournalWriter
from client.vault import Dataset, Record, Vault
from client.vault.contents import uses_of

FORMAT = "fiduciary.export/1"


def export(
    vault: Vault, name: str, path: Path, journal: JournalWriter, actor: str, reason: str
) -> int:
    """Write a dataset's records to a new file.

    Args:
        vault: The site's data.
        name: The dataset.
        path: The file; it must not exist.
        journal: The site's journal.
        actor: Who exports, such as `site:north`.
        reason: Why; it goes into the journal.

    Returns:
        How many records.

    Raises:
        MalformedInput: When no reason is given.
        NotFound: When there is no such dataset or folder.
        Conflict: When the file exists.
        VerificationFailed: When a row was altered.
    """
    if not reason.strip():
        raise MalformedInput("no reason given", fix="say why with --reason")
    if path.exists():
        raise Conflict(f"{path} exists", fix="name another file, or move it away")
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent}", fix="make it first")
    dataset = vault.dataset(name)
    journal.record(
        Entry(
            actor=actor,
            action="dataset-exported",
            object=f"dataset:{name}",
            subject=None,
            payload={
                "version": dataset.version,
                "digest": dataset.digest,
                "records": dataset.records,
                "reason": reason.strip(),
            },
        )
    )
    temporary = private_temporary(path)
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for line in _lines(vault, dataset):
                file.write(line)
                count += 1
            file.flush()
            os.fsync(file.fileno())
        publish_durably(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _lines(vault: Vault, dataset: Dataset) -> Iterator[str]:
    excluded = {one.subject for one in vault.exclusions()}
    for record in vault.each_example(dataset.name):
        if record.subject not in excluded:
            yield json.dumps(_told(dataset, record), ensure_ascii=False) + "\n"


def _told(dataset: Dataset, record: Record) -> dict[str, object]:
    return {
        "format": FORMAT,
        "subject": record.subject,
        "content": record.text,
        "label": record.label,
        "group": record.group,
        **uses_of(record, dataset.datasheet),
    }
