"""Coverage-guided fuzzing of one parser, by hand: it is no part of the tests and of the gate.

    pip install atheris          # 3.0 has wheels for CPython 3.11 to 3.13 on Linux
    python -m tests.audit.fuzz.harness "log entry" -max_total_time=300

The name is one of `READERS`; without one, their list is printed. Everything after the name goes to
libFuzzer (https://llvm.org/docs/LibFuzzer.html#options), a folder to keep the corpus in included.
The fuzzer starts from the sound samples, and stops at the first input that a parser neither reads
to the last bit nor refuses as malformed; it writes that input to a file `crash-…`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["audit"]):
    from audit.errors import MalformedInput
    from tests.audit.readers import READERS

MAX_INPUT_BYTES = 4096
"""Long enough for every sample, short enough for thousands of inputs a second."""


def main() -> None:
    """Fuzz the reader that the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        sys.exit(f"usage: harness NAME [libFuzzer option]...\nnames: {', '.join(READERS)}")
    reader = READERS[sys.argv[1]]

    def read(data: bytes) -> None:
        try:
            got, expected = reader.read(data)
        except MalformedInput:
            return
        if got != expected:
            raise RuntimeError(f"read as {got!r}, which is not {expected!r}")

    with tempfile.TemporaryDirectory() as folder:
        for number, sample in enumerate(reader.samples):
            (Path(folder) / str(number)).write_bytes(sample)
        options = [f"-max_len={MAX_INPUT_BYTES}", *sys.argv[2:], folder]
        atheris.Setup([sys.argv[0], *options], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
