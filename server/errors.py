"""What can go wrong at the coordinator, beyond the errors that all commands share.

```
Refused
├── QuorumNotReached     too few sites answered a round in time
└── PlanRefused          the coordinator itself will not propose or run this plan
MalformedInput
├── MalformedPlanFile    plan.toml cannot be read as a plan
├── MalformedFederation  the federation folder is not one, or was left open to others
└── MalformedReply       a site's answer is not what the round asked for
Conflict
└── PortInUse            another process listens there
```
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from audit.errors import Conflict, MalformedInput, Refused

if TYPE_CHECKING:
    from compliance.statements import SiteReport


class QuorumNotReached(Refused):
    """Too few sites answered a round in time.

    Args:
        message: What happened, with the reason of each missing site.
        absent: Why each site is not counted in, those included that answered in vain.
        reports: What those reported that answered.
    """

    code = "quorum-not-reached"

    def __init__(
        self,
        message: str,
        *,
        absent: Mapping[str, str] | None = None,
        reports: Mapping[str, SiteReport] | None = None,
    ) -> None:
        super().__init__(message)
        self.absent = dict(absent or {})
        self.reports = dict(reports or {})


class PlanRefused(Refused):
    """The coordinator itself will not propose or run this plan."""

    code = "plan-refused"


class MalformedPlanFile(MalformedInput):
    """`plan.toml` cannot be read as a plan."""

    code = "malformed-plan-file"


class MalformedFederation(MalformedInput):
    """The federation folder is not one, or was left open to others."""

    code = "malformed-federation"


class MalformedReply(MalformedInput):
    """A site's answer is not what the round asked for."""

    code = "malformed-reply"


class PortInUse(Conflict):
    """Another process listens on the port."""

    code = "port-in-use"
