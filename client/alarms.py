"""Alarms: the compliance service's log is not the one that this site cosigned.

* An alarm is an entry of the site's journal, and a file under `alarms/` that convinces others: it
  holds both signed heads and the proof that does not join them. Two heads of one log that its key
  signed and that are not consistent prove that whoever holds the key shows two histories.
* The same two heads raise one alarm, however often the site starts and looks again.
* Nothing removes an alarm. The operator moves the file away when the matter is settled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ValidationError

from audit.durable import sync_directory, write_durably
from audit.encoding import encode_base64
from audit.errors import VerificationFailed
from audit.log import Entry
from audit.storage import LogUnavailable
from audit.witness import Reason, Refused
from client.site import Site
from compliance.statements import Document, Time, utc_now

ACTION = "log-alarm"
"""The journal's entry of an alarm."""


class LogAlarm(VerificationFailed):
    """The log is not the one that this site cosigned. The site stops; its operator must act."""

    code: ClassVar[str] = "log-alarm"


class Alarm(Document):
    """One alarm, as its file holds it.

    Attributes:
        format: Version of this form.
        reason: Which rule of `audit.witness` refused.
        detail: Sizes and hashes, one sentence.
        log: The log's name.
        log_key: The key that this site was given for it (`kit.json`).
        held: The head that this site cosigned last: a note with the log's line and its own.
        shown: The head that the service showed.
        proof: The consistency proof that came with it, base64.
        raised_at: When.
    """

    format: Literal["fiduciary.alarm/1"] = "fiduciary.alarm/1"
    reason: Reason
    detail: str
    log: str
    log_key: str
    held: str | None
    shown: str
    proof: tuple[str, ...]
    raised_at: Time


@dataclass(frozen=True)
class KeptAlarm:
    """An alarm file; `alarm` is None when it cannot be read."""

    path: Path
    alarm: Alarm | None


def raise_alarm(
    site: Site, refused: Refused, *, held: str | None, shown: str, proof: Sequence[bytes]
) -> LogAlarm:
    """Journal an alarm, keep its evidence, and make the error that ends the run.

    Args:
        site: Whose alarm it is.
        refused: What the witness found.
        held: The note that it held.
        shown: The note that it refused.
        proof: The consistency proof that came with the note.

    Returns:
        The error for the caller to raise, whether or not journal and file could be written.
    """
    trust = site.trust
    alarm = Alarm(
        reason=refused.reason,
        detail=refused.detail,
        log=trust.origin,
        log_key=trust.log_key.encoded(),
        held=held,
        shown=shown,
        proof=tuple(encode_base64(item) for item in proof),
        raised_at=utc_now(),
    )
    message = f"the audit log of the compliance service misbehaved ({alarm.reason}): {alarm.detail}"
    problems = []
    path = _known(site, alarm)
    if path is None:
        path = _path_of(site, alarm)
        # The journal first: were it the file, a crash in between would leave an alarm unjournalled.
        try:
            site.journal.record(_entry(site, alarm))
        except LogUnavailable as error:
            problems.append(str(error))
        try:
            _write(path, alarm)
        except OSError as error:
            problems.append(f"{path.name} could not be written: {error.strerror}")
    return LogAlarm(
        "; ".join((message, *problems)),
        fix=f"train nothing; show {path} to the compliance officer and to the other sites."
        " This site goes on by itself once the log extends again what it cosigned",
    )


def alarms(site: Site) -> list[KeptAlarm]:
    """The alarms that nobody has moved away, oldest first."""
    return [KeptAlarm(path, _read(path)) for path in sorted(site.paths.alarms.glob("*.json"))]


def _entry(site: Site, alarm: Alarm) -> Entry:
    return Entry(
        actor=site.principal,
        action=ACTION,
        object=f"log:{alarm.log}",
        subject=None,
        payload=alarm.model_dump(mode="json", exclude_none=True),
    )


def _write(path: Path, alarm: Alarm) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700)
        sync_directory(path.parent.parent)
    write_durably(path, (alarm.model_dump_json(indent=2) + "\n").encode())


def _read(path: Path) -> Alarm | None:
    try:
        return Alarm.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _known(site: Site, alarm: Alarm) -> Path | None:
    """The file of the alarm that these two heads have raised before."""
    return next(iter(site.paths.alarms.glob(f"*-{_digest(alarm)}.json")), None)


def _path_of(site: Site, alarm: Alarm) -> Path:
    moment = alarm.raised_at.replace(":", "").replace(".", "")
    return site.paths.alarms / f"{moment}-{alarm.reason}-{_digest(alarm)}.json"


def _digest(alarm: Alarm) -> str:
    heads = "\0".join((alarm.reason, alarm.held or "", alarm.shown))
    return hashlib.sha256(heads.encode()).hexdigest()[:16]
