"""What simulated sites read from disk: a folder that the simulation writes and removes again.

```
plans/<64 digits>.json    a signed plan, by its digest
sites/<site>.json         a site's records
simulation.json           seed, secret of the identities, the sites' policy
```

Worker processes read it; messages carry no more than they do in a federation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from audit.errors import VerificationFailed
from audit.keys import SigningKey
from audit.statement import SignedStatement
from client.learning.data import StoredRecord
from compliance.statements import TrainingPlan


@dataclass(frozen=True)
class Bundle:
    """A simulation's folder."""

    folder: Path

    @classmethod
    def write(
        cls,
        folder: Path,
        sites: Mapping[str, Sequence[StoredRecord]],
        *,
        seed: int,
        secret: bytes,
        policy: str = "",
    ) -> Bundle:
        """Write all but the plans.

        Args:
            folder: An empty folder.
            sites: Records by site.
            seed: Of everything that is drawn.
            secret: 32 random bytes: the sites' identities.
            policy: Text of the policy.toml that every site has; empty for one that allows the plan.
        """
        for name in ("plans", "sites"):
            (folder / name).mkdir()
        for site, records in sites.items():
            lines = json.dumps([astuple(record) for record in records])
            (folder / "sites" / f"{site}.json").write_text(lines, encoding="utf-8")
        settings = {"seed": seed, "secret": secret.hex(), "policy": policy}
        (folder / "simulation.json").write_text(json.dumps(settings), encoding="utf-8")
        return cls(folder)

    def add_plan(self, statement: SignedStatement) -> str:
        """Give sites a plan to train; returns its id."""
        path = self._plan_file(statement.digest)
        path.write_text(json.dumps(statement.to_json()), encoding="utf-8")
        return statement.digest

    def plan(self, plan_id: str) -> TrainingPlan:
        """A plan.

        Raises:
            VerificationFailed: When the file holds another.
        """
        statement = SignedStatement.from_json(json.loads(self._plan_file(plan_id).read_bytes()))
        if statement.digest != plan_id:
            raise VerificationFailed(f"plan {plan_id} was changed", fix="simulate it again")
        return TrainingPlan.from_body(statement.body)

    def records(self, site: str) -> list[StoredRecord]:
        """A site's records."""
        listed = json.loads((self.folder / "sites" / f"{site}.json").read_bytes())
        return [StoredRecord(*item) for item in listed]

    def settings(self) -> SimulationSettings:
        """What all sites share."""
        values: dict[str, Any] = json.loads((self.folder / "simulation.json").read_bytes())
        return SimulationSettings(
            values["seed"], bytes.fromhex(values["secret"]), str(values["policy"])
        )

    def _plan_file(self, plan_id: str) -> Path:
        return self.folder / "plans" / f"{plan_id.removeprefix('sha256:')}.json"


@dataclass(frozen=True)
class SimulationSettings:
    """What all simulated sites share; see `Bundle.write`."""

    seed: int
    secret: bytes
    policy: str


def identity_of(site: str, secret: bytes) -> SigningKey:
    """A simulated site's key. No federation ever admitted it."""
    return SigningKey.from_seed(
        f"{site}/identity", hashlib.sha256(secret + site.encode("utf-8")).digest()
    )


def seed_of(*parts: object) -> int:
    """A number of 63 bits that is the same for the same parts, and unrelated for others.

    >>> seed_of("round", 7, "sim-001", 0) == seed_of("round", 7, "sim-001", 1)
    False
    """
    joined = "\x00".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(joined).digest()[:8], "big") >> 1


def noise_seed(seed: int, site: str, round_index: int) -> int:
    """Of a site's sampling and noise in a round, whichever process trains it."""
    return seed_of("noise", seed, site, round_index)


def rounding_seed(seed: int, site: str, round_index: int) -> bytes:
    """Of the rounding of a site's update on its way (`client.transport`)."""
    return str(seed_of("rounding", seed, site, round_index)).encode("ascii")


def split_secret(seed: int, site: str) -> bytes:
    """Decides which subjects of a site are held out."""
    return hashlib.sha256(f"split {seed} {site}".encode()).digest()
