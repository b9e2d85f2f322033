"""Times noise beside the plain formula: a fresh ChaCha20 key and Box-Muller in NumPy, unguarded.

    python -m bench.noise [--quick] [--repeats N]

Both make 22 million coordinates, every weight of a small encoder; `--quick` makes 2 million. They
take turns, and ratios are medians of turns, so that other work on the machine weighs on both. Ours
also reads a float32 sum, adds the noise to it on the grid and writes float32; `plain_added` is the
plain formula with `total + deviation * noise` in float64 and the same conversions. The last line is
one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from client.learning.noise import CHUNK, add_noise, standard_normal
from client.learning.randomness import Keystream

COORDINATES = 22_000_000
QUICK_COORDINATES = 2_000_000
DEVIATION = 1.1


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 million coordinates")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each, at least 1")
    options = parser.parse_args()
    count = QUICK_COORDINATES if options.quick else COORDINATES
    total = torch.linspace(-1, 1, count)
    keystream = Keystream()

    def words() -> None:
        for _ in range(0, count, CHUNK):
            keystream.words(CHUNK)

    def normals() -> None:
        for _ in range(0, count, CHUNK):
            standard_normal(CHUNK, keystream)

    contenders: dict[str, Callable[[], object]] = {
        "plain": lambda: plain_normal(count),
        "plain_added": lambda: _plain_added(total),
        "ours": lambda: add_noise(total, DEVIATION, keystream),
        "ours_normals": normals,
        "ours_keystream": words,
    }
    seconds = _take_turns(contenders, options.repeats)
    results: dict[str, float | int] = {"coordinates": count, "threads": torch.get_num_threads()}
    for name, times in seconds.items():
        results[f"{name}_seconds"] = round(statistics.median(times), 4)
        print(f"{name:15} median {statistics.median(times):.3f} s, least {min(times):.3f} s")
    for name in ("plain", "plain_added"):
        turns = zip(seconds[name], seconds["ours"], strict=True)
        results[f"speed_over_{name}"] = round(statistics.median(a / b for a, b in turns), 2)
        print(f"ours is {results[f'speed_over_{name}']} times as fast as {name}")
    print(json.dumps(results))


def plain_normal(count: int) -> npt.NDArray[np.float64]:
    """`count` standard normals as a first version makes them: all at once, from 53-bit uniforms."""
    encryptor = Cipher(algorithms.ChaCha20(os.urandom(32), bytes(16)), mode=None).encryptor()
    even = count + count % 2
    words = np.frombuffer(encryptor.update(bytes(8 * even)), dtype=np.uint64)
    uniform = (words >> 11).astype(np.float64) * 2.0**-53
    radius = np.sqrt(-2 * np.log(np.maximum(uniform[: even // 2], 2.0**-53)))
    angle = 2 * np.pi * uniform[even // 2 :]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def _plain_added(total: torch.Tensor) -> torch.Tensor:
    noise = torch.from_numpy(plain_normal(total.numel()))
    return (total.double() + DEVIATION * noise).float()


def _take_turns(
    contenders: dict[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each contender, turn by turn, after a turn that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            begin = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


if __name__ == "__main__":
    main()
