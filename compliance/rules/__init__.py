"""Every decision of the compliance service, as pure functions.

* Nothing here reads a clock, a database or a socket: facts come in, a `Ruling` goes out.
* A ruling is `ALLOWED` or `Refused` with a stable code, one sentence, and what to do next.
* A sentence names what is wrong with the request, never a token, a key or a subject.
* No role bypasses a two-person rule: who submitted does not decide; nobody grants to themselves.

`Refused.status` is the class of the refusal: `unauthorised` (who are you?), `forbidden` (you may
not), `refused` (nobody may), `conflict` (it was done already, or too late), `malformed` (it
contradicts itself or what it refers to).
"""

from __future__ import annotations

from compliance.rules.access import (
    EVERYWHERE,
    LIMITABLE_ROLES,
    NO_TOKEN,
    NOWHERE,
    ROLES_CHANGED,
    TWO_TOKENS,
    UNKNOWN_TOKEN,
    Bearer,
    Scope,
    may_call,
    may_commit,
    may_use_token,
)
from compliance.rules.plans import (
    keeps_name,
    may_close,
    may_decide,
    may_report_round,
    may_report_site,
    may_submit_plan,
)
from compliance.rules.principals import (
    MAX_FORMER_TOKENS,
    MAX_OVERLAP,
    NOT_OWN_KEY,
    RESERVED_NAMES,
    governs,
    may_add_principal,
    may_confirm,
    may_revoke_principal,
    may_rotate,
    needs_confirmation,
)
from compliance.rules.recalls import (
    Recall,
    may_recall,
)
from compliance.rules.releases import (
    MAX_GRANT,
    MAX_RELEASE_BYTES,
    UNSAFE_SUFFIXES,
    Grant,
    content_matches,
    may_download,
    may_grant,
    may_release,
    may_upload,
)
from compliance.rules.ruling import (
    ALLOWED,
    Allowed,
    Refused,
    Ruling,
    Status,
)
from compliance.rules.sites import (
    MAX_INVITATION,
    REPLAY_WINDOW,
    Invitation,
    may_act_as_site,
    may_admit,
    may_ask_renewal,
    may_come_by,
    may_enrol,
    may_invite,
    may_renew,
    may_speak_for,
)
from compliance.rules.subjects import (
    may_record_erasure,
)
from compliance.rules.witnesses import (
    MAX_CLOCK_AHEAD,
    is_witnessed,
    may_witness,
)

__all__ = [
    "ALLOWED",
    "Allowed",
    "Bearer",
    "EVERYWHERE",
    "Grant",
    "Invitation",
    "LIMITABLE_ROLES",
    "MAX_CLOCK_AHEAD",
    "MAX_FORMER_TOKENS",
    "MAX_GRANT",
    "MAX_INVITATION",
    "MAX_OVERLAP",
    "MAX_RELEASE_BYTES",
    "NOT_OWN_KEY",
    "NOWHERE",
    "NO_TOKEN",
    "REPLAY_WINDOW",
    "RESERVED_NAMES",
    "Recall",
    "ROLES_CHANGED",
    "Refused",
    "Ruling",
    "Scope",
    "Status",
    "TWO_TOKENS",
    "UNKNOWN_TOKEN",
    "UNSAFE_SUFFIXES",
    "content_matches",
    "governs",
    "is_witnessed",
    "keeps_name",
    "may_act_as_site",
    "may_add_principal",
    "may_admit",
    "may_ask_renewal",
    "may_call",
    "may_close",
    "may_come_by",
    "may_commit",
    "may_confirm",
    "may_decide",
    "may_download",
    "may_enrol",
    "may_grant",
    "may_invite",
    "may_renew",
    "may_recall",
    "may_record_erasure",
    "may_release",
    "may_report_round",
    "may_report_site",
    "may_revoke_principal",
    "may_rotate",
    "may_speak_for",
    "may_submit_plan",
    "may_upload",
    "may_use_token",
    "may_witness",
    "needs_confirmation",
]
