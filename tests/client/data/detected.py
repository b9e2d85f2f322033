"""What a detector says of one text."""

from __future__ import annotations

from client.deidentification.detection import Detector
from client.deidentification.findings import covered


def left(detector: Detector, text: str) -> str:
    """What no finding covers, in words."""
    (findings,) = detector.detect([text])
    mask = covered(text, findings)
    return " ".join("".join(" " if hit else c for c, hit in zip(text, mask, strict=True)).split())
