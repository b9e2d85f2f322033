"""Consistent, realistic stand-ins for what was found."""

from client.deidentification.surrogates.choice import KeyedChoice
from client.deidentification.surrogates.replacement import SurrogateMaker

__all__ = ["KeyedChoice", "SurrogateMaker"]
