"""What the SuperLink runs. Leaves its figures in the file that the run's configuration names."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run FedAvg with its defaults, over as many sites as there are."""
    config = context.run_config
    rounds, sites, weights = (int(config[name]) for name in ("rounds", "sites", "weights"))
    strategy = FedAvg(min_train_nodes=sites, min_evaluate_nodes=sites, min_available_nodes=sites)
    initial = ArrayRecord([np.zeros(weights, dtype=np.float32)])
    started = time.monotonic()
    result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=rounds)
    figures = {
        "seconds": time.monotonic() - started,
        "rounds_trained": len(result.train_metrics_clientapp),
        "first": float(result.arrays.to_numpy_ndarrays()[0][0]),
    }
    Path(str(config["result"])).write_text(json.dumps(figures), encoding="utf-8")
