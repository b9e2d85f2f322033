"""Every command says what it does on a machine that has none of the extras.

`prometheus_client` is always there, but a command that serves no metrics must not wait for it.
"""

from __future__ import annotations

import subprocess
import sys

EXTRAS = (
    "dp_accounting",
    "fastapi",
    "flwr",
    "hvac",
    "numpy",
    "opacus",
    "peft",
    "presidio_analyzer",
    "presidio_anonymizer",
    "prometheus_client",
    "psycopg",
    "pyarrow",
    "safetensors",
    "scipy",
    "spacy",
    "sqlalchemy",
    "torch",
    "transformers",
    "uvicorn",
)

PROGRAM = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import audit.cli, client.cli, compliance.cli, server.cli
"""

DETECTING = """
import sys
from client.deidentification.detection import Detector

assert [found.kind for found in Detector().detect(["ask Dr. Maria Schneider"])[0]] == ["PERSON"]
loaded = {"torch", "transformers"} & set(sys.modules)
assert not loaded, loaded
import torch, transformers  # whoever needs them later gets them
"""


def test_the_commands_load_without_any_extra() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_detection_does_not_load_what_trains() -> None:
    """It would be most of the time that an ingest's processes take to start, and 300 MB in each."""
    done = subprocess.run([sys.executable, "-c", DETECTING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
