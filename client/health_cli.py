"""`client health`: for container engines on the site's own machine."""

from __future__ import annotations

from rich.markup import escape

from audit.errors import Unreachable
from audit.options import Json
from audit.terminal import print_json
from client.options import FolderOption
from client.presentation import say
from client.progress import read_activity
from client.site import Site
from client.worker_lock import is_worker_running


def health(
    folder: FolderOption = None,
    json: Json = False,
) -> None:
    """Tell whether `client start` is running here and the coordinator answers it.

    It reads the site's folder, and uses no network. What the site does, and what is wrong,
    `client status` tells.

    Exit codes: 0 it serves; 7 it is not running, or the coordinator does not answer it.

    Example: `client health --dir /srv/fiduciary/north`
    """
    with Site.open(folder) as site:
        activity = read_activity(site.paths.worker_state)
        if activity is None or not is_worker_running(site):
            raise Unreachable(
                f"`client start` is not running for site {site.name}", fix="start it: client start"
            )
        if activity.doing not in ("waiting", "training", "evaluating"):
            raise Unreachable(
                f"site {site.name} is {activity.doing}"
                + (f": {activity.last_problem}" if activity.last_problem else ""),
                fix="it dials again by itself; `client check` tells what is wrong",
            )
    if json:
        print_json({"status": "ok", "doing": activity.doing})
        return
    say(f"site {escape(site.name)} serves: {activity.doing}")
