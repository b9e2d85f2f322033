"""What a site's operator may know of a round, and nobody else.

It follows from private records, with no noise: it is shown on the operator's own screen and kept in
the site's own journal. No report, update or refusal holds any of it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Observations:
    """Of one round, as far as it has come.

    Attributes:
        records: Records that its steps used so far.
        unusable_subjects: How often a subject's gradient was not finite and counted as zero.
        micro_batch_limit: Tokens (or pixels' patches, or columns) to which a micro-batch had to
            shrink because memory ran out; None where the site's setting fitted.
    """

    records: int = 0
    unusable_subjects: int = 0
    micro_batch_limit: int | None = None
