"""Notes of requests at one site end here: `subject_requests` is kept, and nothing writes to it.

What is in it stays, as evidence that retention counts from. A note that its site can still answer
would be lost from sight, so it stops the step.
"""

from __future__ import annotations

from typing import Final

from alembic import op
from sqlalchemy import column, select, table

from audit.errors import Conflict

revision: Final = "0015"
down_revision: Final = "0014"

_SHOWN: Final = 5

_NOTES: Final = table("subject_requests", column("request_id"), column("site"), column("state"))
_SITES: Final = table("sites", column("name"), column("state"))


def upgrade() -> None:
    """Change no table; make sure that nobody waits for an answer to a note."""
    waiting = (
        select(_NOTES.c.request_id, _NOTES.c.site)
        .join(_SITES, _SITES.c.name == _NOTES.c.site)
        .where(_NOTES.c.state == "open", _SITES.c.state != "revoked")
        .order_by(_NOTES.c.request_id)
    )
    found = [f"{request} at {site}" for request, site in op.get_bind().execute(waiting)]
    if found:
        more = "" if len(found) <= _SHOWN else f", and {len(found) - _SHOWN} more"
        raise Conflict(
            "requests that were filed by `/v1/requests` are open, and this version knows them no"
            f" more: {', '.join(found[:_SHOWN])}{more}",
            fix="start the version that this database is of, let each site answer its own"
            " (`client erase SUBJECT --request ID`), then migrate",
        )


def downgrade() -> None:
    """Nothing was changed."""
