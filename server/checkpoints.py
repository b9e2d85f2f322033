"""Models that were kept after some rounds of a plan, so that a later plan may start from one.

```
checkpoints/
├── keyring/                  a data key for each kept model, wrapped (`audit.keyring`)
└── <first 16 digits of the plan's id>/<rounds done>.sealed
```

* What is kept is the model that would have been released then, and nothing else: no update of a
  site, no state of the server's optimiser.
* A bounded number of a plan's rounds is kept, evenly spaced over them, which leaves the fewest
  rounds to train again wherever a start has to lie.
* A kept model is on disk only as AES-256-GCM ciphertext under a key of its own, bound to its clear
  first lines. Removing one destroys the key first: what a disk or a backup keeps of it is noise.
* It is kept as long as its plan may be (`retention_days`), counted from the day on which it was
  made. After that it is not there for anybody, also before it is removed.

| what is found | what happens |
|---|---|
| no file, or one whose time is over | there is nothing to start from |
| a file that was altered, moved or cut off, or whose key was destroyed | it does not open |
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationError

from audit.canonical import canonical_bytes
from audit.durable import sync_directory, write_durably
from audit.envelope import NONCE_BYTES, Envelope, seal, unseal
from audit.errors import Conflict, FiduciaryError, MalformedInput, NotFound, VerificationFailed
from audit.keyring import Keyring
from compliance.statements import (
    Count,
    Digest,
    Document,
    Name,
    Time,
    TrainingPlan,
    first_problem,
    format_time,
)

if TYPE_CHECKING:
    from client.arrays import Arrays

KEY_PREFIX: Final = "checkpoint:"
"""Data keys in the keyring: `checkpoint:<16 random hexadecimal digits>`."""

_MAGIC: Final = b"fiduciary.checkpoint/1\n"
_MAX_LABEL_BYTES: Final = 4096
_FOLDER_DIGITS: Final = 16


class KeptModel(Document):
    """What the clear lines of a file say.

    Attributes:
        plan_id: The plan.
        plan_name: Its name.
        rounds: Rounds of it that were done.
        model: Digest of the model, as the report of the last of them states it.
        kept_at: When it was kept.
        remove_after: When its plan's retention is over.
        key: Name of the key that seals it.
    """

    plan_id: Digest
    plan_name: Name
    rounds: Count
    model: Digest
    kept_at: Time
    remove_after: Time
    key: str

    format: Literal["fiduciary.checkpoint/1"] = "fiduciary.checkpoint/1"


def kept_rounds(rounds: int, limit: int) -> frozenset[int]:
    """After how many rounds of a plan its model is kept: at most `limit`, evenly spaced, the last.

    >>> sorted(kept_rounds(40, 8))
    [5, 10, 15, 20, 25, 30, 35, 40]
    >>> sorted(kept_rounds(3, 8)), sorted(kept_rounds(3, 0))
    ([1, 2, 3], [])
    """
    count = min(rounds, limit)
    return frozenset(-(-number * rounds // count) for number in range(1, count + 1))


class Checkpoints:
    """The kept models of one coordinator.

    Args:
        folder: Where they lie; made when the first is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(
        self, plan_id: str, plan: TrainingPlan, rounds: int, model: Arrays, now: datetime
    ) -> None:
        """Keep a model, once; durable when this returns."""
        from client.arrays import arrays_digest, pack_arrays

        path = self._path(plan_id, rounds)
        made = arrays_digest(model)
        known = _read_label(path)
        if known is not None and known.model == made:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        label = KeptModel(
            plan_id=plan_id,
            plan_name=plan.name,
            rounds=rounds,
            model=made,
            kept_at=format_time(now),
            remove_after=format_time(now + timedelta(days=plan.retention_days)),
            key=KEY_PREFIX + secrets.token_hex(_FOLDER_DIGITS // 2),
        )
        clear = _MAGIC + canonical_bytes(label.model_dump(mode="json")) + b"\n"
        with self._keyring() as keyring:
            sealed = seal(keyring.generate_data_key(label.key), pack_arrays(model), clear)
            write_durably(path, clear + sealed.nonce + sealed.ciphertext)
            if known is not None:
                keyring.destroy(known.key)

    def kept(self, now: datetime) -> list[KeptModel]:
        """What may be started from, by plan and rounds; it is not opened."""
        return [label for _, label in self._labels() if not _is_over(label, now)]

    def of(self, plan: str, now: datetime) -> list[KeptModel]:
        """Those of one plan, by its name, its id, or the beginning of that.

        Raises:
            MalformedInput: When several plans fit.
        """
        wanted, kept = plan.removeprefix("sha256:"), self.kept(now)
        fitting = [each for each in kept if each.plan_name == plan] or [
            each for each in kept if each.plan_id.removeprefix("sha256:").startswith(wanted)
        ]
        if len({each.plan_id for each in fitting}) > 1:
            raise MalformedInput(f"{plan} fits several plans", fix="give the plan's whole id")
        return fitting

    def find(self, plan: str, rounds: int, now: datetime) -> KeptModel:
        """One by its plan's id, the beginning of it, or its name.

        Raises:
            NotFound: When there is none; it says which there are.
            MalformedInput: When several plans fit.
        """
        fitting = self.of(plan, now)
        for each in fitting:
            if each.rounds == rounds:
                return each
        there = ", ".join(str(each.rounds) for each in fitting) or "none"
        raise NotFound(
            f"no model of {plan} after {rounds} rounds is kept; kept after: {there}",
            fix="see `server checkpoints`, or start from the base model",
        )

    def open(self, plan_id: str, rounds: int, digest: str, now: datetime) -> dict[str, Any]:
        """The arrays of a kept model.

        Args:
            plan_id: The plan that had it.
            rounds: After how many of its rounds.
            digest: What the model must be.
            now: The present time.

        Raises:
            NotFound: When it is not kept any more.
            VerificationFailed: When it was altered, or is another model.
        """
        from client.arrays import arrays_digest, unpack_arrays

        path = self._path(plan_id, rounds)
        label = _read_label(path)
        if label is None or _is_over(label, now):
            raise NotFound(
                f"the model of plan {plan_id} after {rounds} rounds is not kept any more",
                fix="propose a plan that starts elsewhere: `server checkpoints`",
            )
        data = path.read_bytes()
        end = data.index(b"\n", len(_MAGIC)) + 1
        body = data[end:]
        try:
            with self._keyring() as keyring:
                key = keyring.data_key(label.key)
            envelope = Envelope(body[:NONCE_BYTES], body[NONCE_BYTES:])
            arrays = unpack_arrays(unseal(key, envelope, data[:end]))
        except FiduciaryError as error:
            raise VerificationFailed(
                f"the kept model {path.parent.name}/{path.name} does not open: {error}",
                fix="restore checkpoints/ from a backup, or start elsewhere",
            ) from error
        if arrays_digest(arrays) != digest or label.plan_id != plan_id:
            raise VerificationFailed(
                f"the model that is kept after {rounds} rounds is not the one that the plan names",
                fix="restore checkpoints/ from a backup, or start elsewhere",
            )
        return arrays

    def tidy(self, now: datetime, *, keeping: bool = True) -> int:
        """Remove what nobody may start from any more; how many.

        Args:
            now: The present time.
            keeping: Whether this coordinator keeps models at all.
        """
        return self._remove(
            [(path, label) for path, label in self._labels() if not keeping or _is_over(label, now)]
        )

    def remove(self, plan: str, more_than: int, now: datetime) -> int:
        """Remove a plan's models of more than so many rounds, which hold somebody; how many.

        Raises:
            NotFound: When none of the plan's is kept.
            MalformedInput: When several plans fit.
        """
        plan_ids = {each.plan_id for each in self.of(plan, now)}
        if not plan_ids:
            raise NotFound(f"no model of {plan} is kept", fix="see `server checkpoints`")
        return self._remove(
            [
                (path, label)
                for path, label in self._labels()
                if label.plan_id in plan_ids and label.rounds > more_than
            ]
        )

    def remove_these(self, models: Collection[KeptModel]) -> int:
        """Remove some that are kept; how many."""
        keys = {model.key for model in models}
        return self._remove([(path, label) for path, label in self._labels() if label.key in keys])

    def _remove(self, found: list[tuple[Path, KeptModel]]) -> int:
        if found:
            with self._keyring() as keyring:
                for path, label in found:
                    # The key first: without it the file is noise, whatever the disk keeps of it.
                    keyring.destroy(label.key)
                    path.unlink(missing_ok=True)
                    sync_directory(path.parent)
        return len(found)

    def _labels(self) -> list[tuple[Path, KeptModel]]:
        found = []
        for path in sorted(self._folder.glob("*/*.sealed")):
            label = _read_label(path)
            if label is not None:
                found.append((path, label))
        return sorted(found, key=lambda item: (item[1].plan_name, item[1].plan_id, item[1].rounds))

    def _keyring(self) -> Keyring:
        folder = self._folder / "keyring"
        try:
            return Keyring.open(folder)
        except NotFound:
            try:
                return Keyring.create(folder)
            except Conflict:
                return Keyring.open(folder)

    def _path(self, plan_id: str, rounds: int) -> Path:
        digits = plan_id.removeprefix("sha256:")[:_FOLDER_DIGITS]
        return self._folder / digits / f"{rounds}.sealed"


@dataclass(frozen=True)
class Keeper:
    """Keeps models of one run.

    Attributes:
        rounds: After how many rounds.
    """

    checkpoints: Checkpoints
    plan_id: str
    plan: TrainingPlan
    rounds: frozenset[int]

    def keep(self, rounds: int, model: Arrays, now: datetime) -> None:
        """Keep the model after some rounds."""
        self.checkpoints.keep(self.plan_id, self.plan, rounds, model, now)


def _read_label(path: Path) -> KeptModel | None:
    """The clear lines of a file; None when there is none.

    Raises:
        MalformedInput: When it is something else.
    """
    try:
        with path.open("rb") as file:
            magic, line = file.readline(len(_MAGIC)), file.readline(_MAX_LABEL_BYTES)
    except FileNotFoundError:
        return None
    fix = "remove it, or restore checkpoints/ from a backup"
    if magic != _MAGIC:
        raise MalformedInput(f"malformed {path}: no kept model", fix=fix)
    try:
        return KeptModel.model_validate(json.loads(line))
    except ValidationError as error:
        raise MalformedInput(f"malformed {path}: {first_problem(error)}", fix=fix) from error
    except ValueError as error:
        raise MalformedInput(f"malformed {path}: no kept model", fix=fix) from error


def _is_over(label: KeptModel, now: datetime) -> bool:
    return datetime.fromisoformat(label.remove_after) <= now
