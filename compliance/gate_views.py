"""Gates of a release as callers see them."""

from __future__ import annotations

from compliance.resources import Answer
from compliance.rules.release_gates import Gate, GateName, Verdict
from compliance.statements import Digest


class GateView(Answer):
    """One gate. `positions` are the log entries that its verdict rests on."""

    name: GateName
    verdict: Verdict
    why: str
    positions: tuple[int, ...]

    @classmethod
    def of(cls, gate: Gate) -> GateView:
        """The view of a verdict."""
        return cls(name=gate.name, verdict=gate.verdict, why=gate.why, positions=gate.positions)


class GatesView(Answer):
    """Every gate of a release, as it is judged now. Only `passes` may be approved."""

    release_id: Digest
    thresholds_version: str
    passes: bool
    gates: tuple[GateView, ...]
