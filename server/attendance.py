"""Who is there before a round begins.

A round that is begun costs each site that trains it; one that waits costs nothing. So a round waits
for a quorum without end, and says for whom.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from audit.words import count_of
from server.errors import QuorumNotReached
from server.rounds import Stopped

LOOK_SECONDS = 0.1
"""How often to look who is online."""


@dataclass(frozen=True)
class Attendance:
    """What a round of a plan needs, and how to see it.

    Attributes:
        sites: The plan's sites.
        quorum: How many of them a round needs.
        deadline_seconds: The plan's, for a quorum that can never come.
        online: Sites that can be asked now.
        admitted: Whether a site takes part in the federation.
        clock: Monotonic seconds; the machine's time of day may jump.
        stop: Set when the coordinator is asked to stop.
    """

    sites: Sequence[str]
    quorum: int
    deadline_seconds: float
    online: Callable[[], Collection[str]]
    admitted: Callable[[str], bool]
    clock: Callable[[], float]
    stop: threading.Event

    def await_quorum(
        self,
        grace_seconds: float,
        *,
        watch: Callable[[int], None],
        tell: Callable[[list[str]], None],
    ) -> None:
        """Wait without end until a quorum is online, and a little longer for everybody.

        Args:
            grace_seconds: How long a quorum waits for the others.
            watch: Told how many are online, again and again.
            tell: Told once who is missing, if it has to wait.

        Raises:
            Stopped: When `stop` was set.
            QuorumNotReached: When fewer than a quorum are admitted for as long as the deadline:
                nobody comes back from that.
        """
        quorum_since: float | None = None
        unadmitted_since: float | None = None
        told = False
        while True:
            now, online = self.clock(), set(self.online()) & set(self.sites)
            watch(len(online))
            if len(online) == len(self.sites):
                return
            if len(online) >= self.quorum:
                quorum_since = now if quorum_since is None else quorum_since
                if now - quorum_since >= grace_seconds:
                    return
            else:
                quorum_since = None
            admitted = [site for site in self.sites if self.admitted(site)]
            if len(admitted) >= self.quorum:
                unadmitted_since = None
            else:
                unadmitted_since = now if unadmitted_since is None else unadmitted_since
                if now - unadmitted_since >= self.deadline_seconds:
                    raise QuorumNotReached(
                        f"{len(admitted)} of the {count_of(self.quorum, 'site')} that a round"
                        f" needs are admitted: {', '.join(admitted) or 'none'}"
                    )
            if not told:
                tell(sorted(set(self.sites) - online))
                told = True
            if self.stop.wait(LOOK_SECONDS):
                raise Stopped
