"""The coordinator's part in one secure sum. It ends with the sum, and never holds a summand.

* What it keeps of the sites' vectors is their masked total, which is uniform until at least
  `threshold` survivors reveal, and the sum afterwards.
* A site's message counts when the site signed it, for this session and step; everything else is
  refused with a reason, and the sum goes on with the others.
* Shares are compared with their dealers' commitments, and secrets with theirs: a wrong share is
  found, with whose it is, before it can spoil the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Self, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from audit.encoding import decode_base64, encode_base64
from audit.errors import FiduciaryError, MalformedInput, VerificationFailed
from audit.keys import VerifyKey
from audit.statement import SignedStatement
from audit.words import count_of
from client.secure_aggregation.masks import Vector, add_mask
from client.secure_aggregation.member import mask_seed
from client.secure_aggregation.messages import (
    Dealt,
    Keys,
    Reveal,
    Session,
    Shares,
    Survivors,
    commit,
    members_digest,
    read_signed,
)
from client.secure_aggregation.shamir import combine

SHARE_KINDS: Final = ("seed share", "key share")

STEPS: Final = ("keys", "shares", "vectors", "attestations", "reveals")

D = TypeVar("D", Keys, Shares, Survivors, Reveal)


class TooFewMembers(FiduciaryError):
    """Fewer sites than the threshold are left: the sum stays masked for ever."""

    code = "too-few-members"


class Collector:
    """One session, as the coordinator sees it.

    Args:
        session: The sum.
        sites: Identity of every site that is asked.
        threshold: How many must be left.
        length: Numbers in a vector.
        dtype: `<u4` or `<u8`: the ring.
    """

    def __init__(
        self,
        session: Session,
        sites: Mapping[str, VerifyKey],
        threshold: int,
        length: int,
        dtype: str,
    ) -> None:
        self.session = session
        self._sites = sites
        self._threshold = threshold
        self.total: Vector = np.zeros(length, dtype)
        self.offers: dict[str, SignedStatement] = {}
        self._keys: dict[str, Keys] = {}
        self.dealt: dict[str, SignedStatement] = {}
        self._shares: dict[str, Shares] = {}
        self.survivors: list[str] = []
        self.attested: dict[str, SignedStatement] = {}
        self._revealed: dict[str, Reveal] = {}
        self._step = 0

    @classmethod
    def resumed(
        cls,
        session: Session,
        sites: Mapping[str, VerifyKey],
        threshold: int,
        *,
        total: Vector,
        offers: Mapping[str, SignedStatement],
        dealt: Mapping[str, SignedStatement],
        attested: Mapping[str, SignedStatement],
        survivors: Sequence[str],
    ) -> Self:
        """A sum whose survivors were attested, as it was before anything was revealed.

        Args:
            session: The sum.
            sites: Identity of every site that was asked.
            threshold: How many must be left.
            total: The masked total.
            offers: `offers` of the collector that was interrupted.
            dealt: Its `dealt`.
            attested: Its `attested`.
            survivors: Its `survivors`.

        Raises:
            FiduciaryError: When what was kept does not verify.
        """
        collector = cls(session, sites, threshold, len(total), total.dtype.str)
        for site, statement in offers.items():
            collector.accept_keys(site, statement)
        collector.close()
        for site, statement in dealt.items():
            collector.accept_shares(site, statement)
        collector.close()
        collector.total, collector.survivors = total.copy(), sorted(survivors)
        collector.close()
        for site, statement in attested.items():
            collector.accept_attestation(site, statement)
        collector.close()
        return collector

    # --- steps -----------------------------------------------------------------------------------

    def accept_keys(self, site: str, statement: SignedStatement) -> None:
        """Step 1: a site's public keys.

        Raises:
            VerificationFailed, MalformedInput: When they are not this site's for this session.
        """
        self._at("keys")
        keys = self._read(site, statement, Keys)
        if keys.site != site:
            raise MalformedInput("its keys are another site's")
        self.offers[site], self._keys[site] = statement, keys

    def accept_shares(self, site: str, statement: SignedStatement) -> None:
        """Step 2: a member's sealed shares.

        Raises:
            VerificationFailed, MalformedInput: When they are not this site's for these members.
        """
        self._at("shares")
        shares = self._read(site, statement, Shares)
        members = set(self.offers)
        complete = (
            set(shares.boxes) == members - {site}
            and set(shares.seed_commitments) == set(shares.key_commitments) == members
        )
        if shares.site != site or shares.members != members_digest(self.offers) or not complete:
            raise MalformedInput("its shares are not for exactly these members")
        self.dealt[site], self._shares[site] = statement, shares

    def dealt_to(self, site: str) -> dict[str, Dealt]:
        """What the other dealers have for a site."""
        return {
            dealer: Dealt(
                box=shares.boxes[site],
                seed_commitment=shares.seed_commitments[site],
                key_commitment=shares.key_commitments[site],
            )
            for dealer, shares in self._shares.items()
            if dealer != site
        }

    @property
    def dealers(self) -> list[str]:
        """Who dealt, and so is under everybody's masks."""
        return sorted(self._shares)

    def accept_masked(self, site: str, vector: Vector) -> None:
        """Step 3: a dealer's masked vector, which is added to the total and forgotten.

        Raises:
            MalformedInput: When it is no vector of this sum, or the site's second.
        """
        self._at("vectors")
        if vector.dtype != self.total.dtype or vector.shape != self.total.shape:
            raise MalformedInput(
                f"expected {self.total.shape[0]} masked {self.total.dtype}, got "
                f"{vector.shape} {vector.dtype}"
            )
        if site not in self._shares or site in self.survivors:
            raise MalformedInput("it is no dealer, or sent its vector already")
        np.add(self.total, vector, out=self.total)
        self.survivors = sorted([*self.survivors, site])

    def accept_attestation(self, site: str, statement: SignedStatement) -> None:
        """Step 4: a survivor's signature over the list of survivors.

        Raises:
            VerificationFailed, MalformedInput: When it signed something else.
        """
        self._at("attestations")
        stated = self._read(site, statement, Survivors)
        expected = Survivors(
            session=self.session.digest,
            members=members_digest(self.offers),
            dealers=tuple(self.dealers),
            survivors=tuple(self.survivors),
        )
        if stated != expected or site not in self.survivors:
            raise MalformedInput("it signed another list of survivors")
        self.attested[site] = statement

    def accept_reveal(self, site: str, statement: SignedStatement) -> None:
        """Step 5: a survivor's shares.

        Raises:
            VerificationFailed, MalformedInput: When they are not those that were dealt to it.
        """
        self._at("reveals")
        reveal = self._read(site, statement, Reveal)
        missing = set(self.dealers) - set(self.survivors)
        if (
            reveal.site != site
            or set(reveal.seeds) != set(self.survivors)
            or set(reveal.keys) != missing
        ):
            raise MalformedInput("it revealed other shares than it was asked for")
        for kind, shares in zip(SHARE_KINDS, (reveal.seeds, reveal.keys), strict=True):
            for dealer, share in shares.items():
                said = commit(self.session, kind, [dealer, site], decode_base64(share, "share"))
                if said != self._commitment(kind, dealer, site):
                    raise MalformedInput(f"its share of {dealer} is not the one that was dealt")
        self._revealed[site] = reveal

    def close(self) -> None:
        """End the present step: what comes later for it is refused.

        Raises:
            TooFewMembers: When fewer than the threshold are left.
        """
        left = (self.offers, self._shares, self.survivors, self.attested, self._revealed)
        count, step = len(left[self._step]), STEPS[self._step]
        if count < self._threshold:
            raise TooFewMembers(
                f"{count_of(count, 'site')} gave their {step}, and {self._threshold} are needed",
                fix="the round is not summed; see why sites were absent",
            )
        self._step += 1

    def unmask(self) -> Vector:
        """The sum of the survivors' vectors.

        Raises:
            VerificationFailed: When a dealer's shares do not give what it committed to, by name.
        """
        self._at("")
        for dealer in self.survivors:
            seed = self._recover("seed share", dealer)
            if commit(self.session, "seed", [dealer], seed) != self._keys[dealer].seed_commitment:
                raise VerificationFailed(f"the seed that {dealer} shared is not its own")
            add_mask(self.total, seed, subtract=True)
        for dealer in set(self.dealers) - set(self.survivors):
            key = X25519PrivateKey.from_private_bytes(self._recover("key share", dealer))
            public = encode_base64(key.public_key().public_bytes_raw())
            if public != self._keys[dealer].mask_key:
                raise VerificationFailed(f"the mask key that {dealer} shared is not its own")
            for survivor in self.survivors:
                seed = mask_seed(self.session, key, dealer, self._keys[survivor].mask_key, survivor)
                # The survivor added it when its name is lower, and subtracted it when higher.
                add_mask(self.total, seed, subtract=survivor < dealer)
        return self.total

    # --- parts -----------------------------------------------------------------------------------

    def _at(self, step: str) -> None:
        present = (*STEPS, "")[self._step]
        if step != present:
            raise MalformedInput(f"it is too late, or too early, for {step or 'the sum'}")

    def _recover(self, kind: str, dealer: str) -> bytes:
        places = {name: place for place, name in enumerate(sorted(self.offers), start=1)}
        shares = {}
        for site, reveal in self._revealed.items():
            held = reveal.seeds if kind == SHARE_KINDS[0] else reveal.keys
            shares[places[site]] = decode_base64(held[dealer], "share")
        try:
            return combine(shares, threshold=self._threshold)
        except MalformedInput as error:
            raise VerificationFailed(f"the shares of {dealer} fit no secret") from error

    def _commitment(self, kind: str, dealer: str, site: str) -> str:
        shares = self._shares[dealer]
        of_seeds = kind == SHARE_KINDS[0]
        return (shares.seed_commitments if of_seeds else shares.key_commitments)[site]

    def _read(self, site: str, statement: SignedStatement, kind: type[D]) -> D:
        identity = self._sites.get(site)
        if identity is None:
            raise MalformedInput("it is no site of this sum")
        document = read_signed(statement, kind, identity)
        if document.session != self.session.digest:
            raise MalformedInput("it answers another sum")
        return document
