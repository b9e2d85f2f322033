"""Long lists: questions to the log with two conditions or a time, and open requests of subjects."""

from __future__ import annotations

from typing import Final

from alembic import op

revision: Final = "0013"
down_revision: Final = "0012"

_CASES: Final = "subject_cases"
_BY_DEADLINE: Final = "subject_cases_by_deadline"
_DEADLINE: Final = ["finished_at", "due_at", "request_id"]


def upgrade() -> None:
    """Index pairs and deadlines; times are found by position (`service.log_positions`)."""
    op.create_index("log_index_by_actor_and_action", "log_index", ["actor", "action", "position"])
    op.create_index("log_index_by_site_and_action", "log_index", ["site", "action", "position"])
    op.drop_index("log_index_by_time", "log_index")
    op.drop_index(_BY_DEADLINE, _CASES)
    op.create_index(_BY_DEADLINE, _CASES, [*_DEADLINE, "confirm_by", "confirmed_at"])
    op.create_index("subject_cases_by_due", _CASES, ["due_at", "request_id"])


def downgrade() -> None:
    """As before."""
    op.drop_index("subject_cases_by_due", _CASES)
    op.drop_index(_BY_DEADLINE, _CASES)
    op.create_index(_BY_DEADLINE, _CASES, _DEADLINE)
    op.create_index("log_index_by_time", "log_index", ["time", "position"])
    op.drop_index("log_index_by_site_and_action", "log_index")
    op.drop_index("log_index_by_actor_and_action", "log_index")
