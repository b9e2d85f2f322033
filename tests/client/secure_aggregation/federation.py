"""Members and a collector of one sum, without any network between them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from audit.keys import SigningKey, VerifyKey
from client.secure_aggregation.collector import Collector
from client.secure_aggregation.masks import Vector
from client.secure_aggregation.member import Member
from client.secure_aggregation.messages import Session

PLAN = "sha256:" + "0" * 64


def session_of(**changes: object) -> Session:
    values = {
        "plan_id": PLAN,
        "round": 0,
        "activity": "train",
        "unit_exponent": -20,
        "nonce": secrets.token_hex(16),
    }
    return Session.model_validate({**values, **changes})


@dataclass
class Sum:
    """One sum over sites `s00`, `s01`, …

    Attributes:
        count: Sites.
        threshold: How many must be left.
        length: Numbers in a vector.
        dtype: The ring.
    """

    count: int
    threshold: int
    length: int = 5
    dtype: str = "<u4"
    session: Session = field(default_factory=session_of)

    def __post_init__(self) -> None:
        self.names = [f"s{number:02}" for number in range(self.count)]
        self.identities = {name: SigningKey.generate(name) for name in self.names}
        self.members = {name: self.member(name) for name in self.names}
        self.collector = Collector(
            self.session, self.peers, self.threshold, self.length, self.dtype
        )
        size = self.length * np.dtype(self.dtype).itemsize
        self.vectors: Mapping[str, Vector] = {
            name: np.frombuffer(secrets.token_bytes(size), self.dtype) for name in self.names
        }

    @property
    def peers(self) -> dict[str, VerifyKey]:
        return {name: identity.public for name, identity in self.identities.items()}

    def member(self, name: str, session: Session | None = None) -> Member:
        return Member(
            session or self.session, name, self.identities[name], self.peers, self.threshold
        )

    def keys(self, names: Iterable[str]) -> None:
        for name in names:
            self.collector.accept_keys(name, self.members[name].keys)
        self.collector.close()

    def shares(self, names: Iterable[str]) -> None:
        for name in names:
            shares = self.members[name].deal(self.collector.offers)
            self.collector.accept_shares(name, shares)
        self.collector.close()

    def mask(self, name: str) -> Vector:
        return self.members[name].mask(self.collector.dealt_to(name), self.vectors[name])

    def send(self, names: Iterable[str]) -> None:
        for name in names:
            self.collector.accept_masked(name, self.mask(name))
        self.collector.close()

    def attest(self, names: Iterable[str]) -> None:
        for name in names:
            attested = self.members[name].attest(self.collector.survivors)
            self.collector.accept_attestation(name, attested)
        self.collector.close()

    def reveal(self, names: Iterable[str]) -> None:
        for name in names:
            reveal = self.members[name].reveal(self.collector.attested)
            self.collector.accept_reveal(name, reveal)
        self.collector.close()

    def until_masked(self, dealers: Iterable[str] | None = None) -> None:
        """Keys, shares and vectors of everybody, or the vectors of some."""
        self.keys(self.names)
        self.shares(self.names)
        self.send(self.names if dealers is None else dealers)

    def expected(self, names: Iterable[str]) -> Vector:
        total = np.zeros(self.length, self.dtype)
        for name in names:
            total += self.vectors[name]
        return total
