"""Stock Flower on loopback: its own commands with their defaults, TLS and SuperNode authentication.

Started as Flower's documentation says (how-to guides *enable TLS connections* and *authenticate
SuperNodes*): `flower-superlink`, `flwr supernode register` for each key, `flower-supernode` for
each site, `flwr run`. The app in `stock_app` adds a constant. Nothing is installed at run time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from bench.federation.shape import Shape
from demo.processes import CommandFailed, Processes, free_ports
from server import authority

APP: Final = Path(__file__).parent / "stock_app"
RUN_SECONDS: Final = 900.0
ONLINE_SECONDS: Final = 90.0


def stock_seconds_per_round(folder: Path, shape: Shape) -> float:
    """Seconds of `Strategy.start` over its rounds: training and evaluation at every site.

    Raises:
        CommandFailed: When the run does not end, or its sum is wrong.
    """
    folder.mkdir()
    os.environ["FLWR_HOME"] = str(folder / "home")
    # Flower finds its own commands by name.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with Processes(folder) as processes:
        port, *runtime_ports = free_ports(1 + shape.sites)
        _write_certificates(folder)
        _write_connection(folder, port)
        processes.start(
            "superlink", "flower-superlink", "--enable-supernode-auth",
            "--ssl-ca-certfile", "ca.pem", "--ssl-certfile", "server.pem",
            "--ssl-keyfile", "server.key", "--port", str(port),
            "--disable-runtime-dependency-installation",
        )  # fmt: skip
        _until(processes, lambda: processes.exit_code("flwr", "ls", "bench") == 0, ONLINE_SECONDS)
        for number, runtime_port in enumerate(runtime_ports):
            name = f"site-{number}"
            _write_node_key(folder, name)
            processes.run("flwr", "supernode", "register", f"{name}.pub", "bench")
            processes.start(
                name, "flower-supernode", "--root-certificates", "ca.pem",
                "--superlink", f"127.0.0.1:{port}", "--port", str(runtime_port),
                "--auth-supernode-private-key", f"{name}.key",
            )  # fmt: skip
        _until(processes, lambda: _online(processes) == shape.sites, ONLINE_SECONDS)
        result = folder / "result.json"
        configuration = (
            f"rounds={shape.rounds} sites={shape.sites} weights={shape.weights} result='{result}'"
        )
        processes.run("flwr", "run", str(APP), "bench", "--run-config", configuration)
        _until(processes, lambda: result.exists() and bool(result.read_text("utf-8")), RUN_SECONDS)
    figures = json.loads(result.read_text("utf-8"))
    if figures["rounds_trained"] != shape.rounds or figures["first"] != shape.rounds / 8:
        raise CommandFailed(f"stock Flower made {figures}")
    return float(figures["seconds"]) / shape.rounds


def _online(processes: Processes) -> int:
    listed = processes.run("flwr", "supernode", "list", "bench", "--format", "json")
    return sum(node["status"] == "online" for node in json.loads(listed)["nodes"])


def _until(processes: Processes, ready: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        processes.check_alive()
        if time.monotonic() > deadline:
            raise CommandFailed(f"not within {seconds:.0f} s:\n{processes.tail('superlink', 60)}")
        time.sleep(0.5)


def _write_certificates(folder: Path) -> None:
    now, ca_key, key = datetime.now(UTC), authority.generate_key(), authority.generate_key()
    ca = authority.make_authority("bench", ca_key, now)
    server = authority.certify_server(["127.0.0.1", "localhost"], key.public_key(), ca, ca_key, now)
    (folder / "ca.pem").write_bytes(authority.certificate_pem(ca))
    (folder / "server.pem").write_bytes(authority.certificate_pem(server))
    (folder / "server.key").write_bytes(authority.private_pem(key))


def _write_connection(folder: Path, port: int) -> None:
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{folder / "ca.pem"}"\n',
        encoding="utf-8",
    )


def _write_node_key(folder: Path, name: str) -> None:
    key = authority.generate_key()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (folder / f"{name}.key").write_bytes(private)
    (folder / f"{name}.pub").write_bytes(public + b"\n")
