"""What the sites' signed reports say of the datasets that a plan was trained on. Pure.

A site's datasheet stays at the site. What leaves it names the dataset and the de-identification
pipeline by digest, so that a site can show later which they were, with the pipeline's measured
recall where the site measured it.
"""

from __future__ import annotations

from dataclasses import dataclass

from compliance.resources import PlanEvidence
from compliance.statements import DeidentificationFigures, SiteReport


@dataclass(frozen=True)
class DatasetTold:
    """A dataset of a site, as its reports name it.

    Attributes:
        site: Whose it is.
        digest: Over its sealed rows; an erasure changes it.
        deidentification: Names the whole pipeline that made it.
        measured: What the site measured of that pipeline, as its last report has it.
    """

    site: str
    digest: str
    deidentification: str
    measured: tuple[DeidentificationFigures, ...] = ()

    @property
    def reference(self) -> str:
        """What other documents call it."""
        return f"dataset:{self.site}:{self.digest.removeprefix('sha256:')[:16]}"


def datasets_told(evidence: PlanEvidence) -> tuple[DatasetTold, ...]:
    """Every dataset that a site reported to have trained on, once."""
    reports = [SiteReport.from_body(each.body) for each in evidence.reports]
    found = {
        (each.site, each.dataset_digest, each.deidentification_digest): each.deidentification
        for each in sorted(reports, key=lambda report: report.round)
        if each.activity == "train"
    }
    return tuple(DatasetTold(*named, measured) for named, measured in sorted(found.items()))
