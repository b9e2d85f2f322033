"""From which round on a plan may have sampled somebody who is erased here.

* The site's journal tells it from clear fields alone, so also when the subject's key is destroyed:
  when records of the subject first came in (`subject.ingested`), and which rounds began after that
  (`budget-round-started`). A round draws from what was here when it began.
* Where the journal does not tell it, or tells of fewer arrivals than there are datasets that held
  the subject, every plan counts from its first round on.
* A plan none of whose rounds began after the subject came cannot have sampled the subject.
* Whether the subject trained or was held out makes no difference here: that is the site's secret.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from audit.errors import NotFound
from audit.journal import Leaves
from audit.leaf import Leaf
from client.ledger_journal import ACTION_PREFIX
from client.subject_trail import INGESTED, PAGE_ENTRIES

_STARTED = ACTION_PREFIX + "round-started"


class Journal(Leaves, Protocol):
    """The part of `audit.journal.Journal` that is read here."""

    def read(self, position: int) -> tuple[Leaf, dict[str, Any]]:
        """An entry and its payload."""
        ...


def first_rounds(
    journal: Journal, subject: str, plans: Collection[str], datasets: int
) -> dict[str, int]:
    """The first round in which each plan that can may have sampled a subject.

    Args:
        journal: The site's, with every started round of the ledger in it.
        subject: The pseudonym.
        plans: Plans that trained on the subject's datasets.
        datasets: How many datasets held records of the subject.
    """
    arrivals, found = 0, dict[str, int]()
    objects = {f"plan:{plan_id}": plan_id for plan_id in plans}
    after, size = -1, journal.size()
    while after < size - 1:
        page = journal.leaves(after, PAGE_ENTRIES)
        for leaf in page:
            if leaf.action == INGESTED and leaf.subject == subject:
                arrivals += 1
            elif arrivals and leaf.action == _STARTED and leaf.object in objects:
                plan_id = objects[leaf.object]
                number = _round_of(journal, leaf)
                found[plan_id] = min(number, found.get(plan_id, number))
        after += len(page)
    if arrivals < max(1, datasets):
        return dict.fromkeys(plans, 0)
    return {plan_id: found[plan_id] for plan_id in plans if plan_id in found}


def _round_of(journal: Journal, leaf: Leaf) -> int:
    try:
        return int(journal.read(leaf.position)[1]["round"])
    except NotFound:
        return 0  # its payload is gone; no round is earlier
