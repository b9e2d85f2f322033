"""Questions to the log with two conditions, and with a time (`service.log_positions`)."""

from __future__ import annotations

from typing import Final

from alembic import op

revision: Final = "0011"
down_revision: Final = "0010"


def upgrade() -> None:
    """Index pairs; times are found by position."""
    op.create_index("log_index_by_actor_and_action", "log_index", ["actor", "action", "position"])
    op.create_index("log_index_by_site_and_action", "log_index", ["site", "action", "position"])
    op.drop_index("log_index_by_time", "log_index")


def downgrade() -> None:
    """As before."""
    op.create_index("log_index_by_time", "log_index", ["time", "position"])
    op.drop_index("log_index_by_site_and_action", "log_index")
    op.drop_index("log_index_by_actor_and_action", "log_index")
