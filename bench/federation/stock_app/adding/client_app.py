"""What a SuperNode runs."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

STEP = 0.125

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's interface
    """Add `STEP` to every weight."""
    weights = message.content["arrays"].to_numpy_ndarrays()
    content = {
        "arrays": ArrayRecord([array + np.float32(STEP) for array in weights]),
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(content=RecordDict(content), reply_to=message)


@app.evaluate()  # type: ignore[untyped-decorator]
def evaluate(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's interface
    """Tell the first weight."""
    first = float(message.content["arrays"].to_numpy_ndarrays()[0].flat[0])
    content = {"metrics": MetricRecord({"num-examples": 1, "first": first})}
    return Message(content=RecordDict(content), reply_to=message)
