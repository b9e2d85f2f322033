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

from audit.errors import Conflict, MalformedInput, Refused


class QuorumNotReached(Refused):
    """Too few sites answered a round in time."""

    code = "quorum-not-reached"


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
