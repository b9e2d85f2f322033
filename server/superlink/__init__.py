"""Flower's SuperLink inside this process, reduced to what a federation needs.

* State and objects are kept in memory only: a site's update never reaches the disk in clear. What
  must survive a restart, the coordinator keeps itself (`server.runs`).
* Nodes are registered by the coordinator alone, from admitted sites' keys. Flower's Control
  interface accepts the coordinator's token; its Runtime interface accepts nobody, because the one
  secret that opens it is random and thrown away.
* A reply counts for the site whose key signed the call that brought it. Flower itself compares only
  the sender that the message *names*; `SuperLink.check` closes that.
* Messages are put and read through the state directly: Flower's HTTP grid polls every three seconds
  and its in-memory grid cannot serve a site (docs/adr/0009-flower-embedded.md).
* Fleet calls skip Flower's web framework and go to its handlers (`FleetApplication`): the same
  protocol at a tenth of the work.

Flower's internals change without notice. On the coordinator's side they are used in this package
only; `tests/server/test_superlink.py` is its contract test.
"""

from __future__ import annotations

import os

# Flower reads these when it is imported: no telemetry, no update check, no banner.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from client.fleet_tasks import TaskKind
from server.superlink.link import SuperLink
from server.superlink.messages import Answer, Lost

__all__ = ["Answer", "Lost", "SuperLink", "TaskKind"]
