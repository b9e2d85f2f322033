"""Sums that are about to be unmasked, kept so that a kill loses no round.

Once sites have revealed, they take part in no other sum of the round (`client.reveals`): a
coordinator that forgot this one could never have its result. So it is durable before the first is
asked, and removed when its round is recorded. What is kept is masked: alone it tells nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import safetensors
import safetensors.numpy
from pydantic import ValidationError

from audit.durable import sync_directory, write_durably
from audit.errors import MalformedInput
from audit.keys import VerifyKey
from client.secure_aggregation.collector import Collector
from client.secure_aggregation.messages import Activity, Session
from compliance.statements import Document, Name, SiteReport, Text, first_problem
from compliance.wire import Envelope

_TOTAL: Final = "total"
_SUM: Final = "sum"


class _Kept(Document):
    """What a file holds beside the masked total."""

    format: Literal["fiduciary.kept-sum/1"] = "fiduciary.kept-sum/1"
    session: Session
    offers: dict[Name, Envelope]
    dealt: dict[Name, Envelope]
    attested: dict[Name, Envelope]
    survivors: tuple[Name, ...]
    reports: dict[Name, SiteReport]
    absent: dict[Name, Text]


@dataclass(frozen=True)
class KeptSum:
    """A sum that goes on with its reveals."""

    collector: Collector
    reports: dict[str, SiteReport]
    absent: dict[str, str]


class KeptSums:
    """The sums of one run.

    Args:
        folder: The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(
        self, collector: Collector, reports: Mapping[str, SiteReport], absent: Mapping[str, str]
    ) -> None:
        """Write a sum whose survivors are attested; durable when this returns."""
        kept = _Kept(
            session=collector.session,
            offers=collector.offers,
            dealt=collector.dealt,
            attested=collector.attested,
            survivors=tuple(collector.survivors),
            reports=dict(reports),
            absent=dict(absent),
        )
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = safetensors.numpy.save({_TOTAL: collector.total}, {_SUM: kept.model_dump_json()})
        write_durably(self._path(collector.session.round, collector.session.activity), data)

    def load(
        self, round_index: int, activity: Activity, sites: Mapping[str, VerifyKey], threshold: int
    ) -> KeptSum | None:
        """The sum that was interrupted; None when there is none.

        Raises:
            MalformedInput: When the file cannot be read.
            FiduciaryError: When what it holds does not verify.
        """
        path = self._path(round_index, activity)
        if not path.exists():
            return None
        try:
            with safetensors.safe_open(path, "numpy") as file:
                total, metadata = file.get_tensor(_TOTAL), file.metadata()
            kept = _Kept.model_validate_json(metadata[_SUM])
        except ValidationError as error:
            raise MalformedInput(f"malformed {path.name}: {first_problem(error)}") from error
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise MalformedInput(f"malformed {path.name}", fix="remove it") from error
        collector = Collector.resumed(
            kept.session,
            sites,
            threshold,
            total=total,
            offers=kept.offers,
            dealt=kept.dealt,
            attested=kept.attested,
            survivors=kept.survivors,
        )
        return KeptSum(collector, dict(kept.reports), dict(kept.absent))

    def forget(self) -> None:
        """Remove every sum: its round is recorded, or will not be."""
        found = list(self._folder.glob("sum-*.safetensors"))
        for path in found:
            path.unlink()
        if found:
            sync_directory(self._folder)

    def _path(self, round_index: int, activity: Activity) -> Path:
        return self._folder / f"sum-{round_index}-{activity}.safetensors"
