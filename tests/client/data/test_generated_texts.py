"""The generated texts of `bench.deidentify --generated` are the same each time."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from audit.errors import NotFound
from bench.deidentify_texts import FAMILIES, generate

MAKE = (
    "import hashlib; from bench.deidentify_texts import generate; texts = generate('seen', 200);"
    "print(hashlib.sha256(repr(texts).encode()).hexdigest())"
)


def test_without_faker_an_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faker", None)
    with pytest.raises(NotFound, match="need Faker") as raised:
        generate(FAMILIES[0], 1)
    assert "pip install 'faker==" in raised.value.fix


@pytest.mark.skipif(
    importlib.util.find_spec("faker") is None, reason="Faker is not installed (pip install faker)"
)
def test_they_are_the_same_in_each_process() -> None:
    made = {
        subprocess.run(
            [sys.executable, "-c", MAKE],
            env=os.environ | {"PYTHONHASHSEED": seed, "TZ": zone},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    }
    assert len(made) == 1
