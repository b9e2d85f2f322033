"""Flower's simulation engine, and Ray below it: the only module that knows of either.

* Ray's processes are on this machine, listen on loopback alone, and take work from nobody without
  this run's token: whoever may give Ray work runs code.
* Neither of the two sends usage statistics.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from audit.errors import ExitCode, FiduciaryError, NotFound
from server.rounds import plain
from server.simulation.wire import Grid

EXTRA: Final = "simulation"

OBJECT_STORE_BYTES: Final = 256 * 1024**2
"""Of shared memory for messages on their way to a worker and back; Ray spills what is more."""

START_ATTEMPTS: Final = 5

_BUSY: Final = "try again when the machine is less busy, or with fewer processes: --workers 1"

_ENVIRONMENT: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # no warning that there is no GPU
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux, too, it means: loopback alone
    "RAY_worker_register_timeout_seconds": "300",  # a busy machine takes its time
    "RAY_worker_niceness": "0",  # who starts a simulation waits for it
    "TOKENIZERS_PARALLELISM": "false",
}


class SimulationExtraMissing(NotFound):
    """Ray is not installed."""

    code = "simulation-extra-missing"


class SimulationFailed(FiduciaryError):
    """The engine ended before the simulation did."""

    exit_code = ExitCode.UNEXPECTED
    code = "simulation-failed"


Work = Callable[[Grid, int], None]
"""A coordinator's work on the Grid, with Flower's number of the run."""


def require_engine() -> None:
    """Refuse before anything slow is done.

    Raises:
        SimulationExtraMissing: When Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise SimulationExtraMissing(
            "simulations need Ray, which is not installed",
            fix=f"pip install 'fiduciary[{EXTRA}]'",
        )


def simulate(folder: Path, nodes: int, workers: int, work: Work, stop: threading.Event) -> None:
    """Run a coordinator's work against simulated nodes, until it has ended.

    Args:
        folder: The simulation's folder; workers read it.
        nodes: How many nodes there are.
        workers: Processes that compute, a core each.
        work: Runs in a thread of its own.
        stop: Set when the engine ends first, so that the work ends too.

    Raises:
        SimulationExtraMissing: When Ray is not installed.
        SimulationFailed: When Ray cannot start, or its processes die.
        FiduciaryError: What `work` raises.
    """
    require_engine()
    # Both read it when they are imported, and so do Ray's processes.
    os.environ.update(_ENVIRONMENT, RAY_AUTH_TOKEN=secrets.token_hex(32))
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    application = ServerApp()

    @application.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: Any) -> None:
        work(grid, int(context.run_id))

    # Ray's sockets have long names, and their paths at most 107 characters.
    short = Path("/tmp") if os.name == "posix" else None  # noqa: S108  a private folder in it
    try:
        with (
            tempfile.TemporaryDirectory(
                prefix="ray-", dir=short, ignore_cleanup_errors=True
            ) as own,
            _quiet_flower(),
        ):
            _start_ray(own, workers)
            run_simulation(
                server_app=application,
                client_app=_sites(str(folder)),
                num_supernodes=nodes,
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
    except (RuntimeError, ConnectionError, TimeoutError) as error:
        raise SimulationFailed(
            f"Ray ended before the simulation did: {_first_cause(error)}",
            fix=_BUSY,
        ) from error
    finally:
        stop.set()


def _start_ray(folder: str, workers: int) -> None:
    """Start Ray's processes, which have 30 seconds each time whatever the machine does beside them.

    Raises:
        SimulationFailed: When they did not start.
    """
    import ray

    # The processes find what this one finds, wherever it was started.
    os.environ["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(
                num_cpus=workers,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
        except Exception as error:  # Ray raises nothing narrower
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise SimulationFailed(
                    f"Ray did not start: {plain(str(error))}", fix=_BUSY
                ) from error
        else:
            return


def _first_cause(error: BaseException) -> str:
    """Flower wraps what Ray said in words of its own, twice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return plain(f"{type(error).__name__}: {error}")


def _sites(folder: str) -> Any:
    """Flower's application for the nodes; it travels to each worker, and imports sites there."""
    from flwr.clientapp import ClientApp

    application = ClientApp()

    @application.train()  # type: ignore[untyped-decorator]
    def train(message: Any, context: Any) -> Any:
        return _answer(folder, message, context)

    @application.evaluate()  # type: ignore[untyped-decorator]
    def evaluate(message: Any, context: Any) -> Any:
        return _answer(folder, message, context)

    return application


def _answer(folder: str, message: Any, context: Any) -> Any:
    from client.simulation.site import handle

    return handle(folder, message, context)


@contextlib.contextmanager
def _quiet_flower() -> Iterator[None]:
    """Flower tells of its engine in log lines; what happens is told by the coordinator's rounds."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
