"""The site as a witness of the compliance service's log: it looks, and vouches for what it saw.

* One round: fetch, in one call, the newest head and the proof that it extends the one that this
  site holds, check both, store the head with this site's cosignature (`audit.witness`), and hand
  the cosignature in.
* The heads that prove a plan pass the same check and are remembered in the same file, so that no
  two parts of the site ever believe two histories.
* A head that the log's key did not sign, of another log, or that does not extend the one that is
  held is an alarm (`client.alarms`), and ends the run. A service that does not answer, or answers
  with what cannot be read, is none: it is asked again later.
* A cosignature that could not be handed in costs nothing: the next one covers more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from audit.checkpoint import Checkpoint, read_checkpoint
from audit.cosignature import WitnessKey
from audit.errors import FiduciaryError, MalformedInput, Unauthorised, Unreachable
from audit.witness import Held, Refused, Witness, WitnessMoved, WitnessStateAltered, judge
from audit.words import count_of
from client.alarms import LogAlarm, alarms, raise_alarm
from client.evidence import PlanEvidence, heads_of
from client.site import Site
from compliance.log_views import LogHead, WitnessView
from compliance.statements import format_time

ATTEMPTS = 5
"""How often a round begins anew when another process of this site stored a head meanwhile."""


class WitnessService(Protocol):
    """The part of the compliance service that a witness talks to."""

    def log_head(self, since: int) -> LogHead:
        """The newest signed head, and the proof that it extends the tree of size `since`."""

    def cosign(self, note: str) -> WitnessView:
        """Take a cosigned head."""


class LogWatch:
    """What a site holds of the log, and the only way to hold more. Needs no network.

    Args:
        site: A site that has joined; its kit names the log and the log's key.
    """

    def __init__(self, site: Site) -> None:
        trust = site.trust
        self._site = site
        self._log_key = trust.log_key
        self._origin = trust.origin
        self._witness = Witness(
            site.paths.log_checkpoint,
            log_key=trust.log_key,
            origin=trust.origin,
            signer=site.identity,
        )

    def held(self) -> Held | None:
        """The last head that this site accepted, or None before the first.

        Raises:
            WitnessStateAltered: When the file was altered.
        """
        return self._witness.held()

    def refuse_misbehaviour(self, held: Held | None, note: str) -> None:
        """Raise the alarm for what needs no proof to be wrong: key, name, size, root.

        Raises:
            LogAlarm: When the head must not be accepted whatever proof comes with it.
            MalformedInput: When the note is no head.
        """
        verdict = judge(_head_of(held), note, (), self._log_key, self._origin)
        if isinstance(verdict, Refused) and verdict.reason != "rewritten":
            raise self._alarm(verdict, held, note, ())

    def accept(self, held: Held | None, note: str, proof: Sequence[bytes]) -> Held:
        """Accept a head: it is held, durably and cosigned, when this returns.

        Args:
            held: What was held before the service was asked.
            note: The head that it showed.
            proof: The consistency proof from there to here.

        Raises:
            LogAlarm: When the head does not extend what is held.
            WitnessMoved: When another process accepted a head meanwhile.
            MalformedInput: When the note is no head.
        """
        outcome = self._witness.advance(note, proof, since=_size_of(held))
        if isinstance(outcome, Refused):
            raise self._alarm(outcome, held, note, proof)
        return outcome

    def accept_evidence(self, held: Held | None, evidence: PlanEvidence) -> None:
        """Accept the heads that prove a plan.

        Args:
            held: What was held before the evidence was fetched.
            evidence: What the service showed.

        Raises:
            FiduciaryError: As `accept`.
        """
        growth = {(step.first, step.second): step.hashes for step in evidence.growth}
        for note in sorted(heads_of(evidence), key=_size):
            self.refuse_misbehaviour(held, note)
            held = self.accept(held, note, growth.get((_size_of(held), _size(note)), ()))

    def _alarm(
        self, refused: Refused, held: Held | None, note: str, proof: Sequence[bytes]
    ) -> LogAlarm:
        known = None if held is None else held.note
        return raise_alarm(self._site, refused, held=known, shown=note, proof=proof)


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        held: The head that is held now; None when the first could not be fetched.
        delivered: Whether the service has this head's cosignature.
        problem: Why not, or why no newer head could be looked at; None when all is well.
    """

    held: Held | None
    delivered: bool
    problem: FiduciaryError | None

    def to_json(self) -> dict[str, Any]:
        """The round as `--json` prints it."""
        return {**describe_head(self.held), "delivered": self.delivered}


class _NoAnswer(Exception):
    """The service did not answer, refused, or answered with what cannot be read."""

    def __init__(self, error: FiduciaryError) -> None:
        super().__init__(str(error))
        self.error = error


class Witnessing:
    """Rounds of one site's witness.

    Args:
        site: The witness.
        service: The compliance service.
        network: Entered around every call of the service, and only around those: where an operator
            may end the process at once.
    """

    def __init__(
        self,
        site: Site,
        service: WitnessService,
        *,
        network: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._watch = LogWatch(site)
        self._service = service
        self._network = network
        self._delivered = ""
        self._refused = ""

    def round(self, *, hand_in: bool = True) -> Round:
        """Look at the log once, and vouch for what extends the last head.

        Args:
            hand_in: Whether to give the service the cosignature; it is held in any case.

        Raises:
            LogAlarm: When the log is not the one that this site cosigned.
            WitnessStateAltered: When what this site holds was altered.
            OSError: When the head cannot be stored; nothing was handed in then.
        """
        problem: FiduciaryError | None = None
        for _ in range(ATTEMPTS):
            held = self._watch.held()
            try:
                held = self._look(held)
            except _NoAnswer as no:
                problem = no.error
            except MalformedInput as error:
                problem = error
            except WitnessMoved as moved:
                problem = moved
                continue
            else:
                problem = self._deliver(held) if hand_in else None
            break
        delivered = held is not None and held.note == self._delivered
        return Round(held, delivered, problem)

    def _look(self, held: Held | None) -> Held:
        first = _size_of(held)
        with self._asking():
            shown = self._service.log_head(first)
        self._watch.refuse_misbehaviour(held, shown.checkpoint)
        second, growth = _size(shown.checkpoint), shown.growth
        proof: tuple[bytes, ...] = ()
        if 0 < first < second:
            if growth is None or (growth.first, growth.second) != (first, second):
                raise MalformedInput(
                    f"the service's proof is not from {first} to {count_of(second, 'entry')}"
                )
            proof = growth.hashes
        return self._watch.accept(held, shown.checkpoint, proof)

    def _deliver(self, held: Held) -> FiduciaryError | None:
        """Hand a cosignature in, once; what the service refused for good is not sent again."""
        if held.note in (self._delivered, self._refused):
            return None
        try:
            with self._network():
                self._service.cosign(held.note)
        except (Unreachable, Unauthorised) as error:
            return error
        except FiduciaryError as error:
            self._refused = held.note
            return error
        self._delivered = held.note
        return None

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with self._network():
                yield
        except FiduciaryError as error:
            raise _NoAnswer(error) from error


def describe_witness(site: Site) -> dict[str, Any]:
    """What a site holds of the log, and its alarms, as `client status --json` prints them.

    Raises:
        NotFound: When the site has not joined a federation.
    """
    kept = [
        {
            "file": str(item.path),
            "reason": None if item.alarm is None else item.alarm.reason,
            "detail": "it cannot be read" if item.alarm is None else item.alarm.detail,
            "raised_at": None if item.alarm is None else item.alarm.raised_at,
        }
        for item in alarms(site)
    ]
    found: dict[str, Any] = {"vkey": WitnessKey.of(site.identity.public).encoded(), "alarms": kept}
    try:
        return {**found, **describe_head(LogWatch(site).held())}
    except WitnessStateAltered as error:
        return {**found, **describe_head(None), "problem": str(error)}


def describe_head(held: Held | None) -> dict[str, Any]:
    """A head as `--json` prints it: size and time are null before the first, or the first word."""
    if held is None:
        return {"log": None, "size": None, "cosigned_at": None}
    cosigned_at = None
    if held.unix_seconds is not None:
        cosigned_at = format_time(datetime.fromtimestamp(held.unix_seconds, UTC))
    return {
        "log": held.checkpoint.origin,
        "size": held.checkpoint.size,
        "cosigned_at": cosigned_at,
    }


def _size_of(held: Held | None) -> int:
    return 0 if held is None else held.checkpoint.size


def _size(note: str) -> int:
    return read_checkpoint(note).size


def _head_of(held: Held | None) -> Checkpoint | None:
    return None if held is None else held.checkpoint
