"""What a run leaves on disk, so that it goes on after a crash from its last finished round.

```
runs/<first 16 digits of the plan's id>/
├── state.json                 where the run stands (`RunState`); replaced atomically
└── checkpoint-<rounds>.safetensors   the global model after that many rounds
```

* A round is finished in three steps: its checkpoint and signed report are written, the compliance
  service records the report, and only then `rounds_done` grows. After a crash between them the same
  report is sent again, which the service records once.
* Nothing of a single site is kept: a checkpoint holds the aggregate, a report digests and norms.
* A round that was interrupted before its report is asked again. Sites that had started it have
  spent its budget and say no; if too few are left for a quorum, the run fails, and says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from audit.canonical import digest as digest_of
from audit.durable import write_durably
from audit.errors import MalformedInput
from audit.statement import SignedStatement
from client.arrays import pack_arrays, unpack_arrays
from client.learning.metrics import EvaluationReport
from compliance.statements import (
    Count,
    Digest,
    Document,
    Fraction,
    Metrics,
    Name,
    PhaseKind,
    Text,
    Time,
    first_problem,
    utc_now,
)

if TYPE_CHECKING:
    from client.learning.aggregation import Iterate

Stage = Literal["running", "completed", "failed"]

_FOLDER_DIGITS = 16


class RoundSummary(Document):
    """One finished round, for status pages and provenance; the evidence is its signed report."""

    round: Count
    phase: PhaseKind
    participants: tuple[Name, ...]
    absent: dict[Name, Text]
    report: Digest
    state_digest: Digest
    metrics: Metrics | None = None
    seconds: Annotated[float, Field(ge=0)]


class PendingRound(Document):
    """A round that was computed and whose report has not been recorded yet."""

    summary: RoundSummary
    statement: dict[str, Any]
    epsilon_by_site: dict[Name, Fraction]
    checkpoint: str
    checkpoint_digest: Digest
    evaluation: EvaluationReport | None = None


class RunState(Document):
    """Where a run stands.

    Attributes:
        rounds_done: Finished rounds; the next one has this number.
        checkpoint: File of the global model after them; empty before the first round.
        evaluation: All that the last finished round measured.
        pending: The round that is being finished.
        outcome: The signed outcome, once the run has ended.
        outcome_recorded: Whether the compliance service has it.
        release_id: The release that came of it.
    """

    format: Literal["fiduciary.run/1"] = "fiduciary.run/1"
    plan_id: Digest
    name: Name
    rounds: Count
    stage: Stage = "running"
    reason: str = ""
    rounds_done: Count = 0
    history: tuple[RoundSummary, ...] = ()
    epsilon_by_site: dict[Name, Fraction] = Field(default_factory=dict)
    checkpoint: str = ""
    checkpoint_digest: str = ""
    evaluation: EvaluationReport | None = None
    pending: PendingRound | None = None
    outcome: dict[str, Any] | None = None
    outcome_recorded: bool = False
    release_id: Digest | None = None
    started_at: Time
    updated_at: Time

    @property
    def metrics(self) -> Metrics | None:
        """What the last finished round measured."""
        return self.history[-1].metrics if self.history else None


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @classmethod
    def of(cls, runs: Path, plan_id: str) -> RunFolder:
        """The folder of a plan's run; it need not exist."""
        return cls(runs / plan_id.removeprefix("sha256:")[:_FOLDER_DIGITS])

    def load(self) -> RunState | None:
        """Where the run stands; None when it has not begun.

        Raises:
            MalformedInput: When the file cannot be read.
        """
        path = self.path / "state.json"
        try:
            return RunState.model_validate_json(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise MalformedInput(
                f"malformed {path}: {first_problem(error)}", fix="restore it from a backup"
            ) from error

    def save(self, state: RunState) -> RunState:
        """Replace the state, durably; returns it with its new time."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        stamped = state.model_copy(update={"updated_at": utc_now()})
        text = json.dumps(stamped.model_dump(mode="json"), indent=1, sort_keys=True)
        write_durably(self.path / "state.json", text.encode("utf-8"))
        return stamped

    def model(self, state: RunState) -> Iterate | None:
        """The global model after `rounds_done` rounds; None before the first.

        Raises:
            MalformedInput: When the checkpoint is missing or was changed.
        """
        from client.learning.aggregation import Iterate  # loads torch; status pages need not

        if not state.checkpoint:
            return None
        path = self.path / state.checkpoint
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MalformedInput(
                f"cannot read {path}: {error.strerror}", fix="restore it from a backup"
            ) from error
        if digest_of(data) != state.checkpoint_digest:
            raise MalformedInput(f"{path} was changed", fix="restore it from a backup")
        return Iterate.from_arrays(state.rounds_done, unpack_arrays(data))

    def prepare_round(
        self,
        state: RunState,
        iterate: Iterate,
        *,
        summary: RoundSummary,
        statement: SignedStatement,
        epsilon_by_site: dict[str, Any],
        evaluation: EvaluationReport | None,
    ) -> RunState:
        """Write a computed round, before its report is sent."""
        data, name = pack_arrays(iterate.to_arrays()), f"checkpoint-{iterate.round}.safetensors"
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(self.path / name, data)
        pending = PendingRound(
            summary=summary,
            statement=statement.to_json(),
            epsilon_by_site=epsilon_by_site,
            checkpoint=name,
            checkpoint_digest=digest_of(data),
            evaluation=evaluation,
        )
        return self.save(state.model_copy(update={"pending": pending}))

    def finish_round(self, state: RunState) -> RunState:
        """Count the pending round, after its report was recorded."""
        pending = state.pending
        if pending is None:
            return state
        finished = self.save(
            state.model_copy(
                update={
                    "rounds_done": pending.summary.round + 1,
                    "history": (*state.history, pending.summary),
                    "epsilon_by_site": pending.epsilon_by_site,
                    "checkpoint": pending.checkpoint,
                    "checkpoint_digest": pending.checkpoint_digest,
                    "evaluation": pending.evaluation,
                    "pending": None,
                }
            )
        )
        for old in self.path.glob("checkpoint-*.safetensors"):
            if old.name != finished.checkpoint:
                old.unlink()
        return finished


def all_runs(runs: Path) -> list[tuple[RunFolder, RunState]]:
    """Every run on disk, oldest first.

    Raises:
        MalformedInput: When a state cannot be read.
    """
    found = []
    for path in sorted(runs.iterdir()) if runs.is_dir() else []:
        folder = RunFolder(path)
        state = folder.load()
        if state is not None:
            found.append((folder, state))
    return sorted(found, key=lambda item: item[1].started_at)
