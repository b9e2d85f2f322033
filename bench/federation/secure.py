"""What a secure sum costs a site: members and a collector in one process, without a network.

A million float32 weights, summed in a ring of 32 bits. Four sites with a quorum of three, and
sixteen with a quorum of twelve; who drops out has dealt its shares and sends no vector, which is
the dearest moment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from audit.statement import SignedStatement
from client.arrays import pack_arrays
from client.secure_aggregation.messages import MASKED
from tests.client.secure_aggregation.federation import Sum

WEIGHTS: Final = 1_000_000
QUORUMS: Final = {4: 3, 16: 12}
DROPOUTS: Final = (0, 1, 3)


def secure_costs() -> dict[str, float]:
    """Processor time and octets of one site in one sum, for each number of sites and dropouts.

    `…_dropouts_N` is left out where the quorum would not be reached. Octets are all that a site
    sends and gets for the sum; over plain: beside the update that it would send otherwise.
    """
    plain = len(pack_arrays({"weights": np.zeros(WEIGHTS, np.float32)}))
    figures: dict[str, float] = {}
    for count, quorum in QUORUMS.items():
        for dropouts in DROPOUTS:
            if count - dropouts < quorum:
                continue
            seconds, octets = _one_sum(count, quorum, dropouts)
            name = f"{count}_dropouts_{dropouts}" if dropouts else str(count)
            figures |= {
                f"secure_seconds_site_{name}": round(seconds, 4),
                f"secure_bytes_site_{name}": octets,
                f"secure_bytes_over_plain_{name}": round(octets / plain, 4),
            }
    return figures


def _one_sum(count: int, quorum: int, dropouts: int) -> tuple[float, int]:
    """Of the first site, which stays to the end.

    Raises:
        SystemExit: When the sum is not the survivors'.
    """
    one = Sum(count, quorum, length=WEIGHTS)
    name, survivors = one.names[0], one.names[: count - dropouts]
    watch = Stopwatch()
    with watch:
        member = one.members[name] = one.member(name)
    one.keys(one.names)
    offers = one.collector.offers
    with watch:
        shares = member.deal(offers)
    one.shares(one.names)  # the same answer again
    dealt = one.collector.dealt_to(name)
    with watch:
        masked = member.mask(dealt, one.vectors[name])
    one.send(survivors)
    with watch:
        attested = member.attest(survivors)
    one.attest(survivors)
    with watch:
        revealed = member.reveal(one.collector.attested)
    one.reveal(survivors)
    if not np.array_equal(one.collector.unmask(), one.expected(survivors)):
        raise SystemExit("the sum is wrong")
    sent = len(pack_arrays({MASKED: masked})) + _octets([member.keys, shares, attested, revealed])
    got = _octets([*offers.values(), *one.collector.attested.values()])
    got += len(json.dumps({dealer: each.model_dump(mode="json") for dealer, each in dealt.items()}))
    return watch.seconds, sent + got + len(json.dumps(survivors))


class Stopwatch:
    """Adds up the processor time of the blocks that it is entered around."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._began


def _octets(statements: Iterable[SignedStatement]) -> int:
    documents: list[Any] = [statement.to_json() for statement in statements]
    return sum(len(json.dumps(document)) for document in documents)
