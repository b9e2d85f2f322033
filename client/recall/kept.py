"""What was measured at this site, kept sealed and bound to the pipeline that it was measured of.

Formal guarantees:

* A file is AES-256-GCM ciphertext under a data key of the site's keyring, bound to its own name: it
  opens at its own place, unaltered, or not at all.
* A measurement belongs to the digest of a pipeline (`Deidentifier.digest`: configuration, models,
  word lists, code) and is found by that digest alone. Another configuration has another digest, and
  no measurement.
* A review is of one version of one dataset, too.
* The newest measurement of a kind takes the place of the one before; the journal has them all.

| what is found | what it counts as |
|---|---|
| no file | not measured |
| a file that was altered, moved or cut off, or of another format | an error that names it |
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, get_args

from pydantic import ValidationError

from audit.canonical import canonical_bytes, parse_canonical
from audit.durable import remove_durably, write_durably
from audit.envelope import NONCE_BYTES, Envelope, seal, unseal
from audit.errors import MalformedInput, VerificationFailed
from audit.log import Entry
from client.site_paths import SitePaths
from client.subject_trail import JournalWriter
from client.vault import Dataset
from compliance.statements import DeidentificationFigures
from compliance.statements.deidentification import Method

KEY_NAME: Final = "deidentification:measurements"
"""Data key in the site's keyring. Measurements are of samples; no single subject's data."""

MEASURED: Final = "deidentification-measured"

_FORMAT: Final = "fiduciary.deidentification-measurement/1"
_FOLDER_MODE: Final = 0o700


class Keys(Protocol):
    """The part of `audit.keyring.Keyring` that seals measurements."""

    def generate_data_key(self, name: str) -> bytes:
        """The data key of this name, made durably if there was none."""


class SealedFolder:
    """Small JSON documents in one folder, each sealed under its own name."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        self._folder = folder
        self._keys = keys

    def write(self, name: str, document: Mapping[str, Any]) -> None:
        """Keep a document; durable when this returns."""
        self._folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        sealed = seal(
            self._keys.generate_data_key(KEY_NAME), canonical_bytes(document), _bound_to(name)
        )
        write_durably(self._path(name), sealed.nonce + sealed.ciphertext)

    def read(self, name: str) -> dict[str, Any] | None:
        """A document; None when there is none.

        Raises:
            VerificationFailed: When it was altered, or is another.
        """
        try:
            data = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        try:
            envelope = Envelope(data[:NONCE_BYTES], data[NONCE_BYTES:])
            key = self._keys.generate_data_key(KEY_NAME)
            document = parse_canonical(unseal(key, envelope, _bound_to(name)))
        except (VerificationFailed, MalformedInput) as error:
            raise _altered(self._path(name)) from error
        if not isinstance(document, dict):
            raise _altered(self._path(name))
        return document

    def remove(self, name: str) -> None:
        """Forget a document; harmless when there is none."""
        path = self._path(name)
        if path.is_file():
            remove_durably(path)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.sealed"


@dataclass(frozen=True)
class Measured:
    """A measurement as it is kept.

    Attributes:
        figures: What leaves the site.
        details: Everything, as the command printed it; it stays here.
    """

    figures: DeidentificationFigures
    details: Mapping[str, Any]


class Measurements:
    """The measurements of one site.

    Args:
        paths: The site's folder.
        keys: The site's keyring.
    """

    def __init__(self, paths: SitePaths, keys: Keys) -> None:
        self._kept = SealedFolder(paths.measurements, keys)

    def keep(
        self, pipeline: str, measured: Measured, journal: JournalWriter, actor: str, dataset: str
    ) -> None:
        """Journal a measurement, then keep it.

        Args:
            pipeline: Digest of the pipeline that was measured.
            measured: The measurement.
            journal: The site's.
            actor: Who measured.
            dataset: Id of the dataset's version that was reviewed; empty for an evaluation.
        """
        figures = measured.figures.model_dump(mode="json")
        journal.record(
            Entry(
                actor=actor,
                action=MEASURED,
                object=f"deidentification:{pipeline}",
                subject=None,
                payload={"figures": figures, "dataset": dataset},
            )
        )
        self._kept.write(
            _name(pipeline, measured.figures.method, dataset),
            {
                "format": _FORMAT,
                "pipeline": pipeline,
                "dataset": dataset,
                "figures": figures,
                # Canonical JSON has no floats, and these are for people to read again.
                "details": json.dumps(measured.details, sort_keys=True),
            },
        )

    def of(self, dataset: Dataset) -> tuple[Measured, ...]:
        """The newest measurement of each method that counts for a dataset.

        Raises:
            VerificationFailed: When one was altered.
        """
        pipeline = dataset.datasheet.deidentification_digest
        found = (
            self._find(pipeline, "evaluation", ""),
            self._find(pipeline, "review", dataset.id),
        )
        return tuple(each for each in found if each is not None)

    def told(self, datasets: Sequence[Dataset]) -> tuple[DeidentificationFigures, ...]:
        """By method, what was measured of all of these datasets: the worst of each figure.

        A method is told of only where it counts for every dataset, and nothing where a measurement
        was altered: what is not told counts as not measured.
        """
        try:
            found = [self.of(dataset) for dataset in datasets]
        except VerificationFailed:
            return ()
        told = []
        for method in get_args(Method):
            of = [each.figures for one in found for each in one if each.figures.method == method]
            if of and len(of) == len(datasets):
                told.append(_worst(of))
        return tuple(told)

    def _find(self, pipeline: str, method: Method, dataset: str) -> Measured | None:
        name = _name(pipeline, method, dataset)
        document = self._kept.read(name)
        if document is None:
            return None
        bound = (document.get("format"), document.get("pipeline"), document.get("dataset"))
        if bound != (_FORMAT, pipeline, dataset):
            raise _altered(Path(f"{name}.sealed"))
        try:
            figures = DeidentificationFigures.model_validate(document["figures"])
        except (KeyError, ValidationError) as error:
            raise _altered(Path(f"{name}.sealed")) from error
        return Measured(figures, json.loads(document["details"]))


def _worst(figures: Sequence[DeidentificationFigures]) -> DeidentificationFigures:
    return DeidentificationFigures(
        method=figures[0].method,
        recall=min(each.recall for each in figures),
        recall_at_least=min(each.recall_at_least for each in figures),
        leak_share=max(each.leak_share for each in figures),
        leak_share_at_most=max(each.leak_share_at_most for each in figures),
        measured_at=min(each.measured_at for each in figures),
    )


def _name(pipeline: str, method: Method, dataset: str) -> str:
    """File name of a measurement; digests are long enough never to meet."""
    digits = pipeline.removeprefix("sha256:")[:32]
    return "-".join(part for part in (method, digits, dataset) if part)


def _bound_to(name: str) -> bytes:
    return canonical_bytes({"format": _FORMAT, "name": name})


def _altered(path: Path) -> VerificationFailed:
    return VerificationFailed(
        f"the measurement {path.name} does not open: it was altered or moved",
        fix="delete the file and measure again: `client deidentify evaluate`",
    )
