"""Synthetic messages to a hospital or a bank, with identifiers that are known to be in them."""

from client.demo_notes.messages import LABELS, Profile
from client.demo_notes.writing import Written, write_notes

__all__ = ["LABELS", "Profile", "Written", "write_notes"]
