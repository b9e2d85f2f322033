"""How a site asks the coordinator to hold a poll until a task is there. Both ends import it."""

from __future__ import annotations

PULL_TASK = "pull-task"
"""The Fleet call that polls (`client.fleet_frames`)."""

WAIT_HEADER = "fiduciary-wait-seconds"
"""Request header with a number of seconds; a server that does not know it answers at once."""

MAX_WAIT_SECONDS = 20.0
"""Well below the site's own request timeout, and below what proxies allow an idle request."""
