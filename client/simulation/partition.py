"""Who is at which simulated site. Pure: the same records, sites and seed give the same deal.

* A subject's records stay together at exactly one site, and no subject is left out.
* `deal_evenly` gives each site the same mixture; `deal_skewed` gives each its own, at equal sizes,
  so that label skew can be looked at alone; `deal_as_told` follows a column of the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from audit.errors import MalformedInput
from audit.words import count_of
from client.learning.data import StoredRecord

Dealt = dict[str, list[StoredRecord]]
"""Records by site, every site of the simulation."""


def site_names(count: int) -> tuple[str, ...]:
    """Names of simulated sites, in order.

    >>> site_names(2)
    ('sim-001', 'sim-002')
    """
    return tuple(f"sim-{number:03}" for number in range(1, count + 1))


def deal_evenly(records: Sequence[StoredRecord], sites: Sequence[str], seed: int) -> Dealt:
    """Deal subjects like cards: sites differ in size by at most one subject.

    Raises:
        MalformedInput: When there are fewer subjects than sites.
    """
    by_subject = _by_subject(records, sites)
    order = np.random.default_rng([seed, len(sites)]).permutation(len(by_subject))
    names = list(by_subject)
    dealt: Dealt = {site: [] for site in sites}
    for place, at in enumerate(order.tolist()):
        dealt[sites[place % len(sites)]].extend(by_subject[names[at]])
    return dealt


def deal_skewed(
    records: Sequence[StoredRecord], sites: Sequence[str], seed: int, concentration: float
) -> Dealt:
    """Deal subjects so that each site has its own mixture of labels, at equal sizes.

    Each site draws shares of labels from a Dirichlet distribution around the shares of all (Hsu,
    Qi & Brown 2019, arXiv 1909.06335); sites then take a subject each in turn. Where a label is
    used up, a site takes of those that are left. A subject counts for the commonest label of its
    records.

    Args:
        records: All of them.
        sites: Names.
        seed: Decides the deal.
        concentration: Above 0: 0.1 leaves most sites one or two labels, 100 is almost even.

    Raises:
        MalformedInput: When there are fewer subjects than sites, or the concentration is not above
            0.
    """
    if not concentration > 0:
        raise MalformedInput(
            f"a concentration must be above 0, got {concentration}", fix="give 0.1 to 100"
        )
    by_subject = _by_subject(records, sites)
    random = np.random.default_rng([seed, len(sites)])
    label_of = {who: _commonest(record.label for record in of) for who, of in by_subject.items()}
    labels = sorted(set(label_of.values()))
    waiting = [[who for who in by_subject if label_of[who] == label] for label in labels]
    for queue in waiting:
        random.shuffle(queue)
    left = np.array([len(queue) for queue in waiting], dtype=np.float64)
    shares = random.dirichlet(concentration * left / left.sum(), size=len(sites))
    dealt: Dealt = {site: [] for site in sites}
    for place in range(len(by_subject)):
        at = place % len(sites)
        wanted = np.where(left > 0, shares[at], 0.0)
        if not wanted.sum() > 0:
            wanted = left
        label = int(random.choice(len(labels), p=wanted / wanted.sum()))
        left[label] -= 1
        dealt[sites[at]].extend(by_subject[waiting[label].pop()])
    return dealt


def deal_as_told(records: Sequence[StoredRecord], told: Sequence[str]) -> tuple[Dealt, int]:
    """Deal by what a column says: a site for each of its values, in their order.

    Args:
        records: All of them.
        told: Of each record, what the column says.

    Returns:
        The deal, and how many subjects had records at several sites: each is at the one with most
        of them.
    """
    values = sorted(set(told))
    name_of = dict(zip(values, site_names(len(values)), strict=True))
    says: dict[str, Counter[str]] = {}
    for record, value in zip(records, told, strict=True):
        says.setdefault(record.subject, Counter())[value] += 1
    home = {subject: _commonest(counted.elements()) for subject, counted in says.items()}
    dealt: Dealt = {site: [] for site in name_of.values()}
    for record in records:
        dealt[name_of[home[record.subject]]].append(record)
    return dealt, sum(len(counted) > 1 for counted in says.values())


def _by_subject(
    records: Sequence[StoredRecord], sites: Sequence[str]
) -> Mapping[str, list[StoredRecord]]:
    found: dict[str, list[StoredRecord]] = {}
    for record in records:
        found.setdefault(record.subject, []).append(record)
    if len(found) < len(sites):
        raise MalformedInput(
            f"{count_of(len(found), 'subject')} cannot be dealt to {count_of(len(sites), 'site')}",
            fix="give more records, or fewer sites with --sites",
        )
    return found


def _commonest(values: object) -> str:
    """The value that occurs most often, the first in order among equals."""
    counted: Counter[str] = Counter(values)  # type: ignore[call-overload]
    return min(counted, key=lambda value: (-counted[value], value))
