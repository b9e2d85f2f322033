"""What would differ from run to run is the same at each, unless somebody asks otherwise.

* Property tests search afresh on a developer's machine, and repeat themselves at a gate: with `CI`
  set, hypothesis derives its examples from the test alone. A change is judged by what it changes.
* No example fails for taking long: that is the machine's doing.
* A site's secrets are random, and with them which of a test's few subjects are held out. Here they
  follow from `FIDUCIARY_SPLIT` (default 0), a whole number: other numbers are other people.
* What takes longest begins first, so that no worker waits for another's last module.
* Ctrl-C reaches the programs that tests start, also where whoever started the tests ignores it, as
  a shell's background jobs do: that would be inherited.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import settings

from audit.file_key_manager import FileKeyManager
from audit.key_manager import WrappedKey
from audit.keyring_file import key_context

settings.register_profile("patient", deadline=None)
settings.register_profile("gate", deadline=None, derandomize=True)
settings.load_profile("gate" if os.environ.get("CI") else "patient")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS: Final = Path(__file__).parent

LONGEST: Final = (
    "demo/test_whole_story.py",
    "demo/test_erased_from_models.py",
    "compliance/test_process.py",
    "server/test_secure_sums.py",
    "client/data/test_ingest_killed.py",
    "server/simulation/test_simulate_command.py",
    "server/test_coordinator_holds.py",
    "compliance/test_subject_request_killed.py",
    "compliance/test_release_killed.py",
    "compliance/test_erasure_killed.py",
    "compliance/test_backup.py",
)
"""Half a minute or more each, longest first. `make test` keeps xdist from sorting anew."""

SPLIT = os.environ.get("FIDUCIARY_SPLIT", "0")

_SETTLED = frozenset(
    key_context("secret", name) for name in ("subject-pseudonym", "held-out-split")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first; others stay as they are."""
    begun = {TESTS / name: order for order, name in enumerate(LONGEST)}
    items.sort(key=lambda item: begun.get(item.path, len(begun)))


@pytest.fixture(scope="session", autouse=True)
def the_same_subjects_are_held_out() -> Iterator[None]:
    """Sites made in this process have the same two secrets; those of real processes have not."""
    random_key = FileKeyManager.generate_data_key

    def generate_data_key(self: FileKeyManager, context: bytes) -> tuple[bytes, WrappedKey]:
        if context not in _SETTLED:
            return random_key(self, context)
        key = hashlib.sha256(context + SPLIT.encode()).digest()
        return key, self.wrap(key, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileKeyManager, "generate_data_key", generate_data_key)
        yield


@pytest.fixture
def secrets_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites made from now on share no secret: for tests of what differs between two of them."""
    monkeypatch.setitem(globals(), "_SETTLED", frozenset())
