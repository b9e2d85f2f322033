"""Whose signatures this site takes for the other sites' in a secure sum.

* A site's key is believed when the site signed its own enrolment with it, and that enrolment is an
  entry of the compliance service's log. From then on it is remembered (`peers.json`): neither the
  coordinator nor the service can put another in its place.
* The first time is a matter of trust: who runs both the coordinator and the service could make up a
  site. Operators compare the keys that `client peers` shows by telephone, or reckon such a site
  among those that may collude (`client.secure_aggregation.tolerated_collusion`).
* A key that is remembered is forgotten by the operator alone (`client peers --forget SITE`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from pydantic import ValidationError

from audit.durable import write_durably
from audit.errors import MalformedInput, NotFound, VerificationFailed
from audit.keys import VerifyKey
from audit.leaf import Leaf
from audit.log import Entry
from audit.proof import Proof, verify_proof
from audit.statement import verify_statement
from client.site import Site
from compliance.log_views import LogProof
from compliance.resources import SiteView
from compliance.statements import Document, Name, SiteEnrolment, first_problem

LEARNED = "peer-learned"
FORGOTTEN = "peer-forgotten"
"""Journal entries: whose key is believed from now on, or no more."""


class PeerService(Protocol):
    """The part of the compliance service that tells of sites."""

    def site(self, name: str) -> SiteView:
        """One site."""

    def log_proof(self, position: int) -> LogProof:
        """A leaf with its inclusion proof and checkpoint."""


class Remembered(Document):
    """`peers.json`: the verifier key of each site that this one has met."""

    format: Literal["fiduciary.peers/1"] = "fiduciary.peers/1"
    keys: dict[Name, str]


class Peers:
    """What one site knows of the others.

    Args:
        site: Whose memory it is.
        service: Asked about sites that are not known yet; None where nobody is asked.
    """

    def __init__(self, site: Site, service: PeerService | None = None) -> None:
        self._site = site
        self._service = service

    def of(
        self, names: Iterable[str], waiting: Callable[[], AbstractContextManager[None]]
    ) -> dict[str, VerifyKey]:
        """The identity keys of sites, this one's own included.

        Args:
            names: The plan's sites.
            waiting: Gives what is entered around a question to the service, for each anew.

        Raises:
            NotFound: When the service knows no such site.
            Unreachable: When it does not answer.
            VerificationFailed: When what it says of a site does not verify.
            MalformedInput: When `peers.json` cannot be read.
        """
        known, found = self.remembered(), {}
        for name in names:
            if name == self._site.name:
                found[name] = self._site.identity.public
                continue
            key = known.get(name)
            if key is None:
                with waiting():
                    key = self._ask(name)
                known = {**known, name: key}
                self._keep(known)
                self._note(LEARNED, name, key)
            found[name] = key
        return found

    def remembered(self) -> dict[str, VerifyKey]:
        """Every key that is remembered.

        Raises:
            MalformedInput: When the file cannot be read: no key is believed then.
        """
        try:
            text = self._site.paths.peers.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        try:
            keys = Remembered.model_validate(json.loads(text)).keys
        except ValidationError as error:
            raise MalformedInput(
                f"malformed peers.json: {first_problem(error)}", fix="restore it from a backup"
            ) from error
        except ValueError as error:
            raise MalformedInput(
                "malformed peers.json: not JSON", fix="restore it from a backup"
            ) from error
        return {name: VerifyKey.parse(text) for name, text in keys.items()}

    def forget(self, name: str) -> None:
        """Believe no key of a site any more; the next plan that needs one asks anew.

        Raises:
            NotFound: When none is remembered.
        """
        known = self.remembered()
        key = known.pop(name, None)
        if key is None:
            raise NotFound(f"no key of {name} is remembered", fix="`client peers` lists them")
        self._note(FORGOTTEN, name, key)
        self._keep(known)

    def _ask(self, name: str) -> VerifyKey:
        if self._service is None:
            raise NotFound(f"no key of {name} is remembered", fix="run `client start`")
        view = self._service.site(name)
        trust, enrolled = self._site.kit.trust, view.statement
        # Read before it is verified, only to learn which key must have signed it.
        key = VerifyKey.parse(SiteEnrolment.from_body(enrolled.body).identity_key)
        enrolment = SiteEnrolment.from_body(verify_statement(enrolled, key))
        if (enrolment.site, enrolment.federation) != (name, self._site.federation):
            raise VerificationFailed(f"the enrolment of {name} is another site's")
        proven = self._service.log_proof(view.enrolled_position)
        verify_proof(
            Proof.parse(proven.proof), trust.log_key, leaf=proven.leaf, origin=trust.origin
        )
        if Leaf.parse(proven.leaf).object != enrolled.log_object:
            raise VerificationFailed(f"the log's entry is not the enrolment of {name}")
        return key

    def _keep(self, keys: dict[str, VerifyKey]) -> None:
        kept = Remembered(keys={name: key.encoded() for name, key in sorted(keys.items())})
        write_durably(self._site.paths.peers, kept.model_dump_json(indent=1).encode("utf-8"))

    def _note(self, action: str, name: str, key: VerifyKey) -> None:
        self._site.journal.record(
            Entry(
                actor=self._site.principal,
                action=action,
                object=f"site:{name}",
                subject=None,
                payload={"key": key.encoded()},
            )
        )
