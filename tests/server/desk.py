"""A coordinator's desk: the `server` command in one folder, and `start` as a process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import pytest

from audit.errors import ExitCode
from server.cli import main
from server.federation import Federation
from tests.server.conftest import Service, command, free_ports, until
from tests.server.scripted import SiteFiles, enrol

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """What a command printed."""

    stdout: str
    stderr: str


@dataclass
class Desk:
    """A coordinator's desk: commands run in one folder, against one compliance service."""

    folder: Path
    service: Service
    environment: dict[str, str]
    sites: dict[str, SiteFiles] = field(default_factory=dict)

    def run(self, *arguments: str, expect: int = 0) -> Done:
        """Run a command in this process: what it prints, and its exit code."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.object(sys, "argv", ["server", *arguments]),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        done = Done(out.getvalue(), err.getvalue())
        assert ended.value.code == expect, done
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)

    @contextmanager
    def started(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            command("server", "start", *options),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until(lambda: self.healthy() or process.poll() is not None, "server start", 60)
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=30)

    @contextmanager
    def watching(self, *options: str) -> Iterator[Callable[[], list[Any]]]:
        """`server status --watch`; gives what it printed so far, and ends it by Ctrl-C."""
        process = subprocess.Popen(
            command("server", "status", "--watch", "--interval", "0.3", *options),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        first = process.stdout.readline()

        def printed() -> list[Any]:
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=30)
            assert process.returncode == int(ExitCode.INTERRUPTED)
            lines = [first, *rest.splitlines()]
            return [json.loads(line) for line in lines] if "--json" in options else lines

        try:
            yield printed
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def healthy(self) -> bool:
        federation = Federation.open(self.folder / "federation")
        url = f"https://{federation.fleet_address}/health"
        try:
            ca = federation.root / "ca/certificate.pem"
            return httpx.get(url, verify=_trusting(ca), trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


def _trusting(ca: Path) -> Any:
    return ssl.create_default_context(cafile=str(ca))


def desk_at(folder: Path, service: Service, names: Sequence[str]) -> Desk:
    """A new federation with admitted sites."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FIDUCIARY")
    }
    environment |= {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "COLUMNS": "200"}
    made = Desk(folder, service, environment)
    fleet, control = (str(port) for port in free_ports(2))
    made.run(
        "init",
        *("--compliance", str(service.trust_file)),
        *("--token-file", str(service.folder / "tokens/coordinator.token")),
        *("--name", "demo", "--fleet-port", fleet, "--control-port", control),
    )
    for name in names:
        made.run("invite", name)
        made.sites[name] = enrol(folder / f"{name}.kit", folder / "sites" / name)
        made.run("admit", name)
        made.sites[name].fetch_certificate()
    return made
