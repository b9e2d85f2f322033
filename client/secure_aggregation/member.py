"""A site's part in one secure sum: five steps, each once.

Nothing is fetched or written here; `client.secure_sums` brings messages and keeps what must last.

* A step answers the same question the same way again, and no other question: a coordinator that
  asks with other members, boxes or survivors is refused, because two answers would unmask.
* A site gives away shares of *either* a member's seed *or* its mask key, never of both, and only
  for a list of survivors that at least `threshold` survivors signed.
* Every message that counts is signed by a site whose key this site knows (`peers`); the
  coordinator can hold messages back, but not make, change or mix them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from audit.canonical import canonical_bytes, digest
from audit.encoding import decode_base64, encode_base64
from audit.errors import FiduciaryError, Refused
from audit.keys import SigningKey, VerifyKey
from audit.statement import SignedStatement, sign_statement
from client.secure_aggregation.masks import SEED_BYTES, Vector, add_mask, pair_seed
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
from client.secure_aggregation.shamir import SHARE_BYTES, split

Random = Callable[[int], bytes]

_NONCE: Final = bytes(12)
"""A box key seals one box, so one nonce serves."""


class SumRefused(Refused):
    """A message of a secure sum is not what an honest coordinator sends."""

    code = "secure-sum-refused"


@dataclass(frozen=True)
class _Held:
    """Another member's two shares for this site."""

    seed: bytes
    key: bytes


class Member:
    """One site in one session.

    Args:
        session: The sum.
        site: This site's name.
        identity: Signs what it says.
        peers: Identity of every site of the plan, this one included.
        threshold: How many members must be left for the sum to be shown.
        random: Source of keys and seeds.
    """

    def __init__(
        self,
        session: Session,
        site: str,
        identity: SigningKey,
        peers: Mapping[str, VerifyKey],
        threshold: int,
        random: Random = secrets.token_bytes,
    ) -> None:
        self.session = session
        self._site = site
        self._identity = identity
        self._peers = peers
        self._threshold = threshold
        self._mask_key = X25519PrivateKey.from_private_bytes(random(32))
        self._box_key = X25519PrivateKey.from_private_bytes(random(32))
        self._seed = random(SEED_BYTES)
        keys = Keys(
            session=session.digest,
            site=site,
            mask_key=encode_base64(self._mask_key.public_key().public_bytes_raw()),
            box_key=encode_base64(self._box_key.public_key().public_bytes_raw()),
            seed_commitment=commit(session, "seed", [site], self._seed),
        )
        self.keys: SignedStatement = sign_statement(keys.model_dump(mode="json"), identity)
        """This site's public keys: its answer to the first step."""
        self._members: dict[str, Keys] = {}
        self._members_digest = ""
        self._shares: SignedStatement | None = None
        self._held: dict[str, _Held] = {}
        self._dealt: Mapping[str, Dealt] | None = None
        self._survivors: Survivors | None = None

    # --- steps -----------------------------------------------------------------------------------

    def deal(self, offers: Mapping[str, SignedStatement]) -> SignedStatement:
        """Share this site's seed and mask key among the members.

        Args:
            offers: Every member's signed keys.

        Raises:
            SumRefused: When the members are too few, or this site is not as it said among them.
            VerificationFailed: When a member did not sign its keys.
        """
        named = members_digest(offers)
        if self._shares is not None:
            self._same(named == self._members_digest, "members")
            return self._shares
        if self._site not in offers or offers[self._site] != self.keys:
            raise SumRefused("the members do not include this site as it is")
        members = {name: self._read_keys(name, offer) for name, offer in offers.items()}
        self._enough(members, "members")
        public = [key for keys in members.values() for key in (keys.mask_key, keys.box_key)]
        if len(set(public)) != len(public):
            raise SumRefused("two members have the same key")
        self._members, self._members_digest = members, named
        own = self._mask_key.private_bytes_raw()
        seeds, keys = self._split(self._seed), self._split(own)
        boxes = {
            name: encode_base64(self._seal(name, seeds[name] + keys[name]))
            for name in members
            if name != self._site
        }
        self._held[self._site] = _Held(seeds[self._site], keys[self._site])
        shares = Shares(
            session=self.session.digest,
            site=self._site,
            members=named,
            boxes=boxes,
            seed_commitments=self._commitments("seed share", seeds),
            key_commitments=self._commitments("key share", keys),
        )
        self._shares = sign_statement(shares.model_dump(mode="json"), self._identity)
        return self._shares

    def mask(self, dealt: Mapping[str, Dealt], vector: Vector) -> Vector:
        """This site's vector under its own mask and those that it shares with each dealer.

        Args:
            dealt: The boxes for this site, of every other member that dealt.
            vector: What is summed: the same at each call.

        Raises:
            SumRefused: When the dealers are too few or no members, or a box was not sealed to this
                site or does not hold what its dealer is said to have committed to.
        """
        if self._shares is None:
            raise SumRefused("no keys were shared yet")
        if self._dealt is None:
            if self._site in dealt or not set(dealt) <= set(self._members):
                raise SumRefused("the dealers are not the members")
            self._enough([self._site, *dealt], "dealers")
            opened = {name: self._open(name, each) for name, each in dealt.items()}
            self._held.update(opened)
            self._dealt = dict(dealt)
        self._same(dict(dealt) == self._dealt, "dealers")
        masked = vector.copy()
        add_mask(masked, self._seed)
        for name in self._dealt:
            seed = mask_seed(
                self.session, self._mask_key, self._site, self._members[name].mask_key, name
            )
            add_mask(masked, seed, subtract=self._site > name)
        return masked

    def attest(self, names: Sequence[str]) -> SignedStatement:
        """Sign whose vectors are in the sum.

        Raises:
            SumRefused: When they are too few or no dealers, or this site is not among them.
        """
        if self._dealt is None:
            raise SumRefused("no vector was masked yet")
        dealers = tuple(sorted([self._site, *self._dealt]))
        survivors = tuple(sorted(names))
        if self._site not in survivors or not set(survivors) <= set(dealers):
            raise SumRefused("the survivors are not the dealers, or leave this site out")
        if len(set(survivors)) != len(survivors):
            raise SumRefused("a survivor is named twice")
        self._enough(survivors, "survivors")
        stated = Survivors(
            session=self.session.digest,
            members=self._members_digest,
            dealers=dealers,
            survivors=survivors,
        )
        self._same(self._survivors in (None, stated), "survivors")
        self._survivors = stated
        return sign_statement(stated.model_dump(mode="json"), self._identity)

    def reveal(self, attested: Mapping[str, SignedStatement]) -> SignedStatement:
        """Give away the shares that take the masks off the sum.

        The caller has made it durable that this round is revealed in this session and no other.

        Args:
            attested: The survivors' signatures over their list.

        Raises:
            SumRefused: When fewer than `threshold` survivors signed exactly what this site signed.
            VerificationFailed: When a signature is not the survivor's.
        """
        stated = self._survivors
        if stated is None or self._dealt is None:
            raise SumRefused("no survivors were attested yet")
        for name, statement in attested.items():
            if name not in stated.survivors:
                raise SumRefused("somebody signed who is no survivor")
            if read_signed(statement, Survivors, self._peers[name]) != stated:
                raise SumRefused("the survivors signed different lists")
        self._enough(attested, "signatures of survivors")
        missing = set(stated.dealers) - set(stated.survivors)
        reveal = Reveal(
            session=self.session.digest,
            site=self._site,
            seeds={name: encode_base64(self._held[name].seed) for name in stated.survivors},
            keys={name: encode_base64(self._held[name].key) for name in sorted(missing)},
        )
        return sign_statement(reveal.model_dump(mode="json"), self._identity)

    @property
    def attested(self) -> str:
        """Digest of the list of survivors that this site signed: of one sum alone.

        Raises:
            SumRefused: When it signed none yet.
        """
        if self._survivors is None:
            raise SumRefused("no survivors were attested yet")
        return digest(canonical_bytes(self._survivors.model_dump(mode="json")))

    # --- parts -----------------------------------------------------------------------------------

    def _read_keys(self, name: str, offer: SignedStatement) -> Keys:
        peer = self._peers.get(name)
        if peer is None:
            raise SumRefused("a member is no site of the plan")
        keys = read_signed(offer, Keys, peer)
        if keys.site != name or keys.session != self.session.digest:
            raise SumRefused("a member's keys are for another site or sum")
        return keys

    def _split(self, secret: bytes) -> dict[str, bytes]:
        parts = split(secret, shares=len(self._members), threshold=self._threshold)
        return dict(zip(sorted(self._members), parts, strict=True))

    def _commitments(self, kind: str, parts: Mapping[str, bytes]) -> dict[str, str]:
        return {
            name: commit(self.session, kind, [self._site, name], part)
            for name, part in parts.items()
        }

    def _seal(self, to: str, secret: bytes) -> bytes:
        context = self.session.context("box", self._site, to)
        return self._cipher(to, context).encrypt(_NONCE, secret, context)

    def _open(self, dealer: str, dealt: Dealt) -> _Held:
        context = self.session.context("box", dealer, self._site)
        try:
            sealed = decode_base64(dealt.box, "box")
            parts = self._cipher(dealer, context).decrypt(_NONCE, sealed, context)
        except (InvalidTag, FiduciaryError) as error:
            raise SumRefused(f"the shares of {dealer} were not sealed to this site") from error
        held = _Held(parts[:SHARE_BYTES], parts[SHARE_BYTES:])
        names = [dealer, self._site]
        said = (
            commit(self.session, "seed share", names, held.seed),
            commit(self.session, "key share", names, held.key),
        )
        if said != (dealt.seed_commitment, dealt.key_commitment):
            raise SumRefused(f"the shares of {dealer} are not those that it committed to")
        return held

    def _cipher(self, other: str, context: bytes) -> ChaCha20Poly1305:
        key = decode_base64(self._members[other].box_key, "key")
        return ChaCha20Poly1305(pair_seed(self._box_key, key, context))

    def _enough(self, names: Sequence[str] | Mapping[str, object], what: str) -> None:
        if len(names) < self._threshold:
            raise SumRefused(f"{len(names)} {what}, and {self._threshold} are needed")

    def _same(self, same: bool, what: str) -> None:
        if not same:
            raise SumRefused(f"the coordinator asked again with other {what}")


def mask_seed(
    session: Session, own: X25519PrivateKey, own_name: str, other_key: str, other_name: str
) -> bytes:
    """The seed of the mask that two members share: the lower name adds it, the higher subtracts."""
    lower, higher = sorted((own_name, other_name))
    return pair_seed(own, decode_base64(other_key, "key"), session.context("mask", lower, higher))
