"""What this site has unmasked: one sum for each plan, round and activity, for ever.

Two sums of one round whose survivors differ by a site would give that site's vector away, so the
mark is durable before any share leaves, and a second sum is refused also after a crash. It outlives
the plan: counts of a state may be asked for again when the plan has ended (`client.ledger`).
"""

from __future__ import annotations

import json
from pathlib import Path

from audit.durable import sync_directory, write_durably
from audit.errors import Refused
from client.secure_aggregation.messages import Session

_PLAN_DIGITS = 16


class AlreadyRevealed(Refused):
    """Another sum of this round was unmasked already."""

    code = "already-revealed"


class Reveals:
    """The marks, one small file each: `<plan>/<round>-<activity>.json`.

    Args:
        folder: Where they are; made when the first is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self, session: Session) -> None:
        """Refuse a session of what another session unmasked.

        Raises:
            AlreadyRevealed: When there is a mark of another.
        """
        path = self._path(session)
        if path.exists() and json.loads(path.read_text("utf-8"))["session"] != session.digest:
            raise _revealed(session)

    def mark(self, session: Session, attested: str) -> bool:
        """Remember, durably, that this sum is the one that is unmasked.

        Args:
            session: The sum.
            attested: Digest of the list of survivors that this site signed. It names everybody's
                keys, so the same session begun anew is another sum.

        Returns:
            Whether the mark is new.

        Raises:
            AlreadyRevealed: When there is a mark of another.
        """
        path = self._path(session)
        for folder in (self._folder, path.parent):
            if not folder.exists():
                folder.mkdir(mode=0o700)
                sync_directory(folder.parent)
        mark = {"session": session.digest, "attested": attested}
        try:
            write_durably(path, json.dumps(mark).encode("utf-8"), replace=False)
        except FileExistsError:
            if json.loads(path.read_text("utf-8")) != mark:
                raise _revealed(session) from None
            return False
        return True

    def _path(self, session: Session) -> Path:
        return self._folder_of(session.plan_id) / f"{session.round}-{session.activity}.json"

    def _folder_of(self, plan_id: str) -> Path:
        return self._folder / plan_id.removeprefix("sha256:")[:_PLAN_DIGITS]


def _revealed(session: Session) -> AlreadyRevealed:
    return AlreadyRevealed(
        f"round {session.round + 1} was summed already ({session.activity})",
        fix="the coordinator goes on with the next round",
    )
