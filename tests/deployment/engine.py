"""Runs a compose file's services as plain processes, as a container engine would run containers.

| in the file | here |
|---|---|
| image and target | the commands of this environment, with the image's ENV from the Dockerfile |
| volume, tmpfs | a folder each; its path in the container is replaced in commands and environment |
| secret, config | the file itself |
| service name, port | 127.0.0.1, and a free port each |
| `read_only`, `:ro` | Python's writes elsewhere are refused (`read_only_root/sitecustomize.py`) |
| `cap_drop`, `no-new-privileges` | `setpriv`, where it is installed |
| `depends_on`, `healthcheck`, `profiles`, `stop_signal`, `stop_grace_period` | as specified |

Not done: networks, limits, users (`test_compose_file.py` judges what the file says of them).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.deployment.compose import ROOT, dependencies, mounts, read_compose, seconds
from tests.deployment.dockerfile import environment as image_environment
from tests.deployment.dockerfile import read_stages
from tests.deployment.postgresql_image import PostgresImage
from tests.server.conftest import free_ports

READ_ONLY_ROOT: Final = Path(__file__).parent / "read_only_root"
PORTS: Final = ("5432", "8443", "9443", "9444", "9464", "9465", "9466")
_PORT: Final = re.compile(rf"(?<![\w.])({'|'.join(PORTS)})(?!\w)")
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  replaced by loopback

ONCE_SECONDS: Final = 400.0
"""How long a service that runs once may take on a busy machine."""

PATIENCE: Final = 3.0
"""A busy machine may take that many times what a health check allows."""


class ServiceFailed(AssertionError):
    """A service ended, or is not well."""


@dataclass
class Stopped:
    """How a service ended."""

    exit_code: int
    seconds: float


class Engine:
    """One project: a compose file's services.

    Args:
        file: The compose file.
        folder: Where volumes, logs and the rest lie.
        settings: For interpolation.

    Attributes:
        unwell: What the health check of each service said before it was started.
    """

    def __init__(self, file: Path, folder: Path, settings: Mapping[str, str]) -> None:
        self.document = read_compose(file, settings)
        self.services: dict[str, dict[str, Any]] = self.document["services"]
        self.folder = folder
        self.unwell: dict[str, subprocess.CompletedProcess[str]] = {}
        self._file = file
        self._stages = read_stages()
        self._ports: dict[tuple[str, str], int] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._programs = _programs(folder)
        # A server that runs as another user cannot get into pytest's folders.
        self._database = tempfile.TemporaryDirectory(prefix="fiduciary-postgresql-")

    # --- a project ----------------------------------------------------------------------------

    def up(self, profiles: Sequence[str] = (), services: Sequence[str] = ()) -> None:
        """Start what the profiles have, in the order of what waits for what.

        Raises:
            ServiceFailed: When a service fails, or does not become well.
        """
        active = {
            name
            for name, service in self.services.items()
            if set(service.get("profiles", profiles)) <= set(profiles)
        }
        wanted = self._needed(services or sorted(active), active)
        started: dict[str, Future[None]] = {}
        with ThreadPoolExecutor(len(wanted)) as pool:
            for name in wanted:  # after everything that it waits for
                before = [
                    started[each] for each in dependencies(self.services[name]) if each in started
                ]
                started[name] = pool.submit(self._start_after, name, before)
        for name in wanted:
            started[name].result()

    def down(self) -> dict[str, Stopped]:
        """Stop everything, what others wait for last; and how each service ended."""
        return {name: self.stop(name) for name in reversed(list(self._running))}

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        for process in self._running.values():
            process.kill()
            process.wait()
        self._database.cleanup()

    # --- a service ----------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start a service, and wait until it is done or well."""
        service = self.services[name]
        if service["restart"] == "no":
            done = self.execute(name, service["command"])
            self.log(name).write_text(done.stdout + done.stderr)
            if done.returncode != 0:
                raise ServiceFailed(f"{name} exited {done.returncode}:\n{done.stdout}{done.stderr}")
            return
        if name in self._running and self._running[name].poll() is None:
            return
        self.unwell[name] = self.is_well(name)
        with self.log(name).open("ab") as log:
            self._running[name] = self._process(name, log)
        self._await_health(name)

    def stop(self, name: str) -> Stopped:
        """Send a service its stop signal, and wait as long as the file grants.

        Raises:
            ServiceFailed: When that is not enough.
        """
        service, process = self.services[name], self._running.pop(name)
        began = time.monotonic()
        process.send_signal(signal.Signals[service.get("stop_signal", "SIGTERM")])
        try:
            code = process.wait(seconds(service["stop_grace_period"]))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ServiceFailed(f"{name} had to be killed:\n{self.log(name).read_text()}") from None
        return Stopped(code, time.monotonic() - began)

    def execute(
        self,
        name: str,
        command: Sequence[str],
        *,
        given: str = "",
        mounted: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as `docker compose exec` does.

        Args:
            name: The service.
            command: What to run in it.
            given: Its standard input.
            mounted: Folders by their place in the container, which `run -v` mounts.
        """
        environment = self.environment(name)
        places = mounted or {}
        environment["WRITABLE"] = os.pathsep.join([environment["WRITABLE"], *places.values()])
        return subprocess.run(
            self._command(name, command, places),
            env=environment,
            cwd=self._mounted(name)["/tmp"],  # noqa: S108  replaced by a folder
            input=given,
            capture_output=True,
            text=True,
            timeout=ONCE_SECONDS,
            check=False,
        )

    def plain(self, command: Sequence[str], folder: Path) -> str:
        """Run one of our commands outside of any container.

        Raises:
            ServiceFailed: When it fails.
        """
        done = subprocess.run(
            [str(self._programs / command[0]), *command[1:]],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ServiceFailed(f"{command}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def is_well(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run a service's health check once."""
        _, *command = self.services[name]["healthcheck"]["test"]
        return self.execute(name, command)

    def running(self) -> dict[str, int]:
        """The services that run, and their processes' ids."""
        return {name: process.pid for name, process in self._running.items()}

    def log(self, name: str) -> Path:
        """What a service wrote."""
        return self.folder / "logs" / f"{self.document['name']}-{name}.log"

    def volume(self, name: str) -> Path:
        """The folder of a volume."""
        if name == "database":
            return Path(self._database.name)
        found = self.folder / "volumes" / name
        found.mkdir(parents=True, exist_ok=True)
        return found

    def environment(self, name: str) -> dict[str, str]:
        """What a process of a service finds in its environment."""
        service = self.services[name]
        target = service.get("build", {}).get("target")
        image = {} if target is None else image_environment(self._stages, target)
        found = {
            variable: self._here(name, value)
            for variable, value in (image | service["environment"]).items()
        }
        writable = [self._mounted(name)[target] for target in self._writable(name)]
        return found | {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "PYTHONPATH": f"{READ_ONLY_ROOT}:{ROOT}",
            "WRITABLE": os.pathsep.join(writable),
            "OMP_NUM_THREADS": "1",
        }

    def port(self, name: str, number: str) -> int:
        """The free port that stands for a container's port."""
        # Each process has its own metrics; the other ports are reached by name.
        key = (name if number.startswith("946") else "", number)
        with self._lock:
            if key not in self._ports:
                (self._ports[key],) = free_ports(1)
            return self._ports[key]

    # --- pieces -------------------------------------------------------------------------------

    def _needed(self, names: Sequence[str], active: set[str]) -> list[str]:
        found: list[str] = []

        def add(name: str) -> None:
            if name in found:
                return
            for other, rule in dependencies(self.services[name]).items():
                if other in active or rule.get("required", True):
                    add(other)
            found.append(name)

        for name in names:
            add(name)
        return found

    def _start_after(self, name: str, before: Sequence[Future[None]]) -> None:
        for each in before:
            each.result()
        self.start(name)

    def _process(self, name: str, log: Any) -> subprocess.Popen[bytes]:
        if self.services[name]["image"].startswith("postgres:"):
            image = PostgresImage(self.volume("database"))
            return image.start(self.environment(name), self.port(name, "5432"), log)
        return subprocess.Popen(
            self._command(name, self.services[name]["command"]),
            env=self.environment(name),
            cwd=self._mounted(name)["/tmp"],  # noqa: S108  replaced by a folder
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def _await_health(self, name: str) -> None:
        check = self.services[name]["healthcheck"]
        allowed = seconds(check["start_period"]) + check["retries"] * seconds(check["interval"])
        deadline = time.monotonic() + PATIENCE * allowed
        while True:
            code = self._running[name].poll()
            if code is not None:
                raise ServiceFailed(f"{name} ended with {code}:\n{self.log(name).read_text()}")
            began = time.monotonic()
            done = self.is_well(name)
            if done.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise ServiceFailed(
                    f"{name} is not well:\n{done.stderr}{self.log(name).read_text()}"
                )
            # A busy machine asks less often, or it would do little else.
            took = time.monotonic() - began
            time.sleep(max(seconds(check["start_interval"]), 2 * took))

    def _command(
        self, name: str, command: Sequence[str], mounted: Mapping[str, str] | None = None
    ) -> list[str]:
        return [*_confined(), *(self._here(name, word, mounted) for word in command)]

    def _mounted(self, name: str) -> dict[str, str]:
        """Where each path of a service's container is here."""
        service = self.services[name]
        found = {mount.target: str(self.volume(mount.volume)) for mount in mounts(service)}
        for text in service["tmpfs"]:
            target = text.partition(":")[0]
            place = self.folder / "tmpfs" / self.document["name"] / name / target.strip("/")
            place.mkdir(parents=True, exist_ok=True)
            found[target] = str(place)
        for secret in service.get("secrets", ()):
            file = self.document["secrets"][secret]["file"]
            found[f"/run/secrets/{secret}"] = str(self._file.parent / file)
        for config in service.get("configs", ()):
            file = self.document["configs"][config["source"]]["file"]
            found[config["target"]] = str(self._file.parent / file)
        return found

    def _writable(self, name: str) -> list[str]:
        service = self.services[name]
        volumes = [mount.target for mount in mounts(service) if not mount.read_only]
        return volumes + [text.partition(":")[0] for text in service["tmpfs"]]

    def _here(self, name: str, text: str, mounted: Mapping[str, str] | None = None) -> str:
        """A word of a command or of the environment, with what only a container has replaced."""
        places = self._mounted(name) | dict(mounted or {})
        targets = "|".join(re.escape(target) for target in sorted(places, key=len, reverse=True))
        text = re.sub(rf"(?<![\w./-])({targets})(?=/|$)", lambda found: places[found[1]], text)
        text = text.replace("@postgresql:", "@127.0.0.1:").replace(_EVERYWHERE, "127.0.0.1")
        return _PORT.sub(lambda found: str(self.port(name, found[1])), text)


def _programs(folder: Path) -> Path:
    """A folder with our four commands, in this interpreter, and PostgreSQL's `pg_isready`."""
    place = folder / "bin"
    place.mkdir(parents=True, exist_ok=True)
    for name in ("audit", "client", "compliance", "server"):
        program = place / name
        program.write_text(
            f"#!/bin/sh\nexec {sys.executable} -c 'from {name}.cli import main; main()' \"$@\"\n"
        )
        program.chmod(0o755)
    postgresql = Path("/usr/lib/postgresql")
    for found in sorted(postgresql.glob("*/bin/pg_isready"))[-1:]:
        link = place / "pg_isready"
        link.unlink(missing_ok=True)
        link.symlink_to(found)
    return place


def _confined() -> list[str]:
    """Without capabilities, and without a way to gain any, where this machine can."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    drop = ["--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    return [setpriv, *drop, "--no-new-privs"]
