"""Whose word the log keeps: cosignatures of its own heads by approved sites, nothing else."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from audit.checkpoint import Checkpoint
from audit.words import count_of
from compliance.rules.ruling import ALLOWED, Ruling, contradiction
from compliance.rules.sites import may_act_as_site
from compliance.wire import SiteState

MAX_CLOCK_AHEAD: Final = timedelta(minutes=5)
"""A site's clock may be that far ahead; a later time would vouch for what has not happened yet."""


def may_witness(state: SiteState, *, federation: str, site: str, key_name: str) -> Ruling:
    """Whether a site's identity key may cosign.

    Its name must be the site's: names are what tells witnesses apart in a note, and a site must
    not pass for another, or for two.
    """
    expected = f"{federation}/site/{site}"
    if key_name != expected:
        return contradiction(
            "witness-name", f"the site's identity key is named {key_name}, expected {expected}"
        )
    return may_act_as_site(state)


def is_witnessed(
    head: Checkpoint, *, issued_root: bytes | None, unix_seconds: int, now: datetime
) -> Ruling:
    """Whether a cosigned head is one of this log's, at a time that has come.

    Args:
        head: The head, signed by the log's key and by the site.
        issued_root: Root of the log's first `head.size` entries; None when it has fewer.
        unix_seconds: When the site says that it cosigned.
        now: The present time.
    """
    if issued_root is None:
        return contradiction(
            "head-unknown", f"the log has fewer than {count_of(head.size, 'entry')}"
        )
    if issued_root != head.root or head.extensions:
        return contradiction(
            "head-unknown",
            f"the log of {head.size} entries has another root",
            "compare both heads: one log has one history",
        )
    if unix_seconds > (now + MAX_CLOCK_AHEAD).timestamp():
        return contradiction(
            "cosigned-in-future",
            "the cosignature's time has not come yet",
            "set the site's clock by NTP, for example with `timedatectl set-ntp true`",
        )
    return ALLOWED
