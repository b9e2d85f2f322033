"""What a run leaves on disk, so that it goes on after a crash from its last finished round.

```
runs/<first 16 digits of the plan's id>/
├── state.json                 where the run stands (`RunState`); replaced atomically
├── checkpoint-<rounds>.safetensors   the global model after that many rounds
└── sum-<round>-<activity>.safetensors   a secure sum before it is unmasked (`server.kept_sums`)
```

* A round is finished in steps, each durable before the next: its aggregate is written, then its
  signed report, then the compliance service records the report, and only then `rounds_done` grows.
  After a crash between them the same aggregate is measured and the same report is sent again, which
  the service records once.
* The checkpoint of a run is in clear: it is read and replaced every round, by whoever holds the key
  to it all the same. Models that are kept for later plans are sealed (`server.checkpoints`).
* Nothing of a single site is kept: a checkpoint holds the aggregate, a report digests and norms.
* A round that was interrupted before its aggregate is asked again. Sites that answered it give the
  same answer again; one that had begun and has no answer has spent the round and says no.
* A round without a quorum is missed: it is in the history with no participant and the reason of
  each site, and the model is what it was. The plan says how many may be (`missed_rounds`).

| killed | afterwards |
|---|---|
| before or while sites are asked | asked again; they answer what they answered |
| after the aggregate, before the report | measured and reported; nobody is asked to train |
| after the report, before it is recorded | recorded; nobody is asked anything |
| after it was recorded, before it counts | the same statement again, recorded once; it counts |
| after the last round, before the outcome or the release | they are made |
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
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
from server.kept_sums import KeptSums

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

    @property
    def missed(self) -> bool:
        """Whether it had no quorum: nobody's update counted."""
        return not self.participants


class PendingRound(Document):
    """A round that was computed and whose report has not been recorded yet."""

    summary: RoundSummary
    statement: dict[str, Any]
    epsilon_by_site: dict[Name, Fraction]
    checkpoint: str
    checkpoint_digest: Digest
    evaluation: EvaluationReport | None = None


class AggregatedRound(Document):
    """A round whose answers were added up, and that has not been measured yet."""

    round: Count
    participants: tuple[Name, ...]
    absent: dict[Name, Text]
    update_norm: Fraction
    epsilon_by_site: dict[Name, Fraction]
    checkpoint: str
    checkpoint_digest: Digest
    seconds: Annotated[float, Field(ge=0)]


class RunState(Document):
    """Where a run stands.

    Attributes:
        rounds_done: Finished rounds; the next one has this number.
        checkpoint: File of the global model after them; empty before the first round.
        evaluation: All that the last round that trained measured.
        aggregated: The round that was trained and is being measured.
        pending: The round that is being finished.
        outcome: The signed outcome, once the run has ended.
        outcome_recorded: Whether the compliance service has it.
        release_id: The release that came of it.
    """

    format: Literal["fiduciary.run/1", "fiduciary.run/2"] = "fiduciary.run/2"
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
    aggregated: AggregatedRound | None = None
    pending: PendingRound | None = None
    outcome: dict[str, Any] | None = None
    outcome_recorded: bool = False
    release_id: Digest | None = None
    started_at: Time
    updated_at: Time

    @property
    def metrics(self) -> Metrics | None:
        """What was measured of the present model: by the last round that changed it, or later."""
        for summary in reversed(self.history):
            if summary.metrics is not None or not summary.missed:
                return summary.metrics
        return None

    @property
    def rounds_missed(self) -> int:
        """Finished rounds that had no quorum."""
        return sum(summary.missed for summary in self.history)

    @property
    def trained(self) -> bool:
        """Whether any round changed what is released; a histogram alone changes nothing."""
        return any(not each.missed and each.phase != "histogram" for each in self.history)


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
        stamped = state.model_copy(update={"format": "fiduciary.run/2", "updated_at": utc_now()})
        text = json.dumps(stamped.model_dump(mode="json"), indent=1, sort_keys=True)
        write_durably(self.path / "state.json", text.encode("utf-8"))
        return stamped

    def model(self, state: RunState) -> Iterate | None:
        """The global model after `rounds_done` rounds; None before the first.

        Raises:
            MalformedInput: When the checkpoint is missing or was changed.
        """
        if not state.checkpoint:
            return None
        return self._read(state.rounds_done, state.checkpoint, state.checkpoint_digest)

    def aggregate(self, aggregated: AggregatedRound) -> Iterate:
        """The global model after a round that is not finished.

        Raises:
            MalformedInput: When the checkpoint is missing or was changed.
        """
        return self._read(aggregated.round + 1, aggregated.checkpoint, aggregated.checkpoint_digest)

    def pending_model(self, pending: PendingRound) -> Iterate:
        """The global model after a round that is being finished.

        Raises:
            MalformedInput: When the checkpoint is missing or was changed.
        """
        return self._read(pending.summary.round + 1, pending.checkpoint, pending.checkpoint_digest)

    def _read(self, rounds_done: int, name: str, digest: str) -> Iterate:
        from client.learning.aggregation import Iterate  # loads torch; status pages need not

        path = self.path / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MalformedInput(
                f"cannot read {path}: {error.strerror}", fix="restore it from a backup"
            ) from error
        if digest_of(data) != digest:
            raise MalformedInput(f"{path} was changed", fix="restore it from a backup")
        return Iterate.from_arrays(rounds_done, unpack_arrays(data))

    @property
    def sums(self) -> KeptSums:
        """Secure sums of the round that is going on."""
        return KeptSums(self.path)

    def prepare_aggregate(
        self,
        state: RunState,
        iterate: Iterate,
        *,
        participants: tuple[str, ...],
        absent: dict[str, str],
        update_norm: Decimal,
        epsilon_by_site: dict[str, Decimal],
        seconds: float,
    ) -> tuple[RunState, AggregatedRound]:
        """Write what became of a round's answers, before anybody measures it."""
        data, name = pack_arrays(iterate.to_arrays()), f"checkpoint-{iterate.round}.safetensors"
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(self.path / name, data)
        aggregated = AggregatedRound(
            round=iterate.round - 1,
            participants=participants,
            absent=absent,
            update_norm=update_norm,
            epsilon_by_site=epsilon_by_site,
            checkpoint=name,
            checkpoint_digest=digest_of(data),
            seconds=seconds,
        )
        state = self.save(state.model_copy(update={"aggregated": aggregated}))
        self.sums.forget()
        return state, aggregated

    def prepare_round(
        self,
        state: RunState,
        aggregated: AggregatedRound,
        *,
        summary: RoundSummary,
        statement: SignedStatement,
        epsilon_by_site: dict[str, Any],
        evaluation: EvaluationReport | None,
    ) -> RunState:
        """Write a measured round, before its report is sent."""
        pending = PendingRound(
            summary=summary,
            statement=statement.to_json(),
            epsilon_by_site=epsilon_by_site,
            checkpoint=aggregated.checkpoint,
            checkpoint_digest=aggregated.checkpoint_digest,
            evaluation=evaluation,
        )
        return self.save(state.model_copy(update={"aggregated": None, "pending": pending}))

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
        self.sums.forget()
        self.tidy(finished)
        return finished

    def tidy(self, state: RunState) -> None:
        """Remove checkpoints that nothing names any more, also those that a crash left behind."""
        named = {state.checkpoint}
        for step in (state.aggregated, state.pending):
            if step is not None:
                named.add(step.checkpoint)
        for path in self.path.glob("checkpoint-*.safetensors"):
            if path.name not in named:
                path.unlink()


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
