"""A federation in one folder: what its coordinator, officer, sites and consumers do by command.

The compliance service is in `compliance/`, the coordinator in `federation/`, each site in a folder
of its name.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from audit.words import count_of
from demo.processes import CommandFailed, Processes, free_ports


def acting_as(role: str) -> tuple[str, ...]:
    """Options of a command of `compliance` for somebody with this role."""
    return (
        "--trust", "compliance/trust.json",
        "--token-file", f"compliance/tokens/{role}.token",
    )  # fmt: skip


class Federation:
    """Takes a federation from nothing to a release.

    Args:
        folder: Where everything lies, and where commands run.
        processes: Run them.
    """

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._folder = folder
        self._processes = processes

    def start(
        self, name: str, coordinator: Sequence[str] = ("server", "start", "federation")
    ) -> None:
        """Start the compliance service and the coordinator on free ports.

        Args:
            name: The federation's.
            coordinator: The command that coordinates it.
        """
        run = self._processes.run
        compliance_port, fleet_port, control_port = map(str, free_ports(3))
        run("compliance", "init", "compliance", "--port", compliance_port)
        self._processes.start("compliance", "compliance", "start", "compliance")
        plans = ("compliance", "plans", *acting_as("officer"))
        self.until(lambda: self._processes.exit_code(*plans) == 0, 30)
        run(
            "server", "init", "federation",
            "--name", name,
            "--compliance", "compliance/trust.json",
            "--token-file", "compliance/tokens/coordinator.token",
            "--fleet-port", fleet_port,
            "--control-port", control_port,
        )  # fmt: skip
        self._processes.start("server", *coordinator)

    def join(self, site: str) -> None:
        """Invite and admit a site, which generates its keys."""
        run, kit = self._processes.run, f"{site}.kit"
        invited = self._processes.json("server", "invite", site, "--dir", "federation", "-o", kit)
        run(
            "client", "join", kit, "--dir", site, "--fingerprint", invited["fingerprint"],
            "--wait", "0",
        )  # fmt: skip
        run("server", "admit", site, "--dir", "federation")
        # Asking again, after admission, fetches the certificate.
        run("client", "join", kit, "--dir", site, "--wait", "30")

    def allow(self, site: str, purposes: Sequence[str], **rules: Any) -> None:
        """Change rules of a new site's policy, as its operator does in an editor.

        Raises:
            CommandFailed: When the policy does not start out refusing every purpose, or does not
                have exactly one line with a rule.
        """
        policy = self._folder / site / "policy.toml"
        text = policy.read_text("utf-8")
        if "\npurposes = []\n" not in text:
            raise CommandFailed(f"{policy} does not start out refusing every purpose")
        for name, value in {"purposes": purposes, **rules}.items():
            line = f"{name} = {json.dumps(value)}"
            text, count = re.subn(rf"(?m)^{name} = .*$", line, text)
            if count != 1:
                raise CommandFailed(f"{policy} has {count_of(count, 'line')} with {name}")
        policy.write_text(text, encoding="utf-8")

    def submit(self, plan_file: str) -> str:
        """Propose a plan; returns its id."""
        submitted = self._processes.json("server", "submit", plan_file, "--dir", "federation")
        return str(submitted["plan_id"])

    def approve(self, kind: str, identifier: str) -> None:
        """Let the officer approve a `plan` or a `release`."""
        self._processes.run("compliance", "approve", kind, identifier, *acting_as("officer"))

    def plan_status(self, plan_id: str) -> dict[str, Any]:
        """What the coordinator says of a plan."""
        status = self._processes.json("server", "status", "--dir", "federation")
        found: dict[str, Any] = next(p for p in status["plans"] if p["plan_id"] == plan_id)
        return found

    def await_release(self, plan_id: str) -> str:
        """Wait for a completed plan's release; returns its id."""
        self.until(lambda: self.plan_status(plan_id)["release"] is not None, 60)
        return str(self.plan_status(plan_id)["release"]["release_id"])

    def add_consumer(self, name: str) -> str:
        """Register somebody who may be granted releases; returns their public key."""
        added = self._processes.json(
            "compliance", "principals", "add", name, "--role", "consumer", *acting_as("officer")
        )
        token = self._folder / f"{name}.token"
        token.touch(mode=0o600)
        token.write_text(added["token"], encoding="utf-8")
        made = self._processes.json("server", "release", "keygen", f"{name}.key")
        return str(made["public_key"])

    def grant(self, release_id: str, name: str, public_key: str, purpose: str) -> None:
        """Let the officer grant a release for thirty days."""
        self._processes.run(
            "compliance", "grant", release_id, "--to", name, "--public-key", public_key,
            "--purpose", purpose, "--days", "30", *acting_as("officer"),
        )  # fmt: skip

    @staticmethod
    def fetch_command(release_id: str, name: str, out: str) -> tuple[str, ...]:
        """The command with which a consumer fetches a release into the folder `out`."""
        return (
            "server", "release", "fetch", release_id, "--out", out,
            "--trust", "compliance/trust.json", "--token-file", f"{name}.token",
            "--key", f"{name}.key", "--dir", "federation",
        )  # fmt: skip

    def until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until something is true.

        Raises:
            CommandFailed: When it is not in time, or a process ended by itself.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            self._processes.check_alive()
            if time.monotonic() > deadline:
                raise CommandFailed(
                    f"not ready within {seconds:.0f} s:\n{self._processes.tail('server')}"
                )
            time.sleep(0.2)
