"""Rotates a keyring and dies, once at each step: a program that `test_key_rotation` runs.

A step is the end of a function that changes something on a disk or in a service, and each return
of SQLite or of fsync in it. For each, a child does what was asked and ends with `os._exit` there.
The parent then reads every key, makes one, ends what was left, and tries a copy of the database
from before against the keys from after.

Arguments: folder, address of a transit server, operation.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from audit import (
    durable,
    file_key_manager,
    key_managers,
    key_rotation,
    keyring_file,
    vault_transit,
)
from audit.key_manager import KeyDestroyed, KeyringUnavailable
from audit.key_managers import FILE_SETTINGS, ManagerSettings
from audit.keyring import Keyring
from tests.audit.custodians import transit
from tests.audit.keyrings import filled_keyring, read_all
from tests.audit.transit_server import TOKEN

STEPS = {
    "durable.py": durable,
    "file_key_manager.py": file_key_manager,
    "key_managers.py": key_managers,
    "key_rotation.py": key_rotation,
    "keyring_file.py": keyring_file,
    "vault_transit.py": vault_transit,
}
DISK = frozenset({"execute", "fsync", "fetchall"})
WRITES = frozenset(
    {
        "_rewrap",
        "_write",
        "begin_rotation",
        "destroy",
        "end_retirement",
        "forget_unused",
        "publish_durably",
        "remove_durably",
        "replace",
        "rewrap",
        "rotate",
        "sync_directory",
        "transaction",
        "wrap",
        "write_durably",
        "_call",
        "_set_meta",
    }
)
KILLED = 9


def die_at(step: int) -> None:
    """End this process at a step, without any clean-up."""
    files = {str(module.__file__) for module in STEPS.values()}
    count = 0

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if frame.f_code.co_filename not in files or frame.f_code.co_name not in WRITES:
            return
        if event == "return" or (event == "c_return" and getattr(argument, "__name__", "") in DISK):
            count += 1
            if count == step:
                os._exit(KILLED)

    sys.setprofile(watch)


def operate(keyring: Keyring, operation: str, vault: ManagerSettings) -> None:
    if operation == "move to vault":
        keyring.move(vault)
    elif operation == "move to file":
        keyring.move(FILE_SETTINGS)
    else:
        keyring.rotate()


def attempt(folder: Path, address: str, operation: str, step: int) -> tuple[bool, bool]:
    """Die at one step; whether it was reached, and whether a rotation was left unfinished."""
    keys = filled_keyring(folder / "keyring", 2)
    vault = transit(address, TOKEN, folder / "keyring", key=f"{operation.replace(' ', '-')}-{step}")
    with Keyring.open(folder / "keyring") as keyring:
        if operation in {"rotate in vault", "move to file"}:
            keyring.move(vault.settings)
    (folder / "old").mkdir()
    shutil.copyfile(folder / "keyring" / "keyring.sqlite", folder / "old" / "keyring.sqlite")
    child = os.fork()
    if child == 0:
        try:
            with Keyring.open(folder / "keyring") as keyring:
                die_at(step)
                operate(keyring, operation, vault.settings)
                os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in {0, KILLED}:
        raise AssertionError(f"step {step} ended with {code}")
    with Keyring.open(folder / "keyring") as keyring:
        unfinished = bool(keyring.status().retiring)
        check(keyring, keys)
        keys["data afterwards"] = keyring.generate_data_key("afterwards")
        keyring.rotate()
        check(keyring, keys)
        if keyring.status().retiring or len(keyring.status().managers) != 1:
            raise AssertionError(f"step {step}: the next rotation left something")
    for path in (folder / "keyring").iterdir():
        if path.name != "keyring.sqlite":
            shutil.copyfile(path, folder / "old" / path.name)
    with Keyring.open(folder / "old") as old:
        for name in old.names():
            try:
                old.data_key(name)
            except KeyringUnavailable:
                continue
            raise AssertionError(f"step {step}: an old copy of {name} opens")
    return code == KILLED, unfinished


def check(keyring: Keyring, keys: dict[str, bytes]) -> None:
    if read_all(keyring) != keys:
        raise AssertionError("a key was lost")
    try:
        keyring.data_key("destroyed")
    except KeyDestroyed:
        return
    raise AssertionError("a destroyed key came back")


def main() -> None:
    folder, address, operation = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    key_rotation._BATCH = 2  # type: ignore[misc]
    kills = left_unfinished = 0
    while True:
        place = folder / str(kills)
        place.mkdir()
        killed, unfinished = attempt(place, address, operation, kills + 1)
        if not killed:
            break
        kills += 1
        left_unfinished += unfinished
        shutil.rmtree(place)
    print(json.dumps({"kills": kills, "left_unfinished": left_unfinished}))  # noqa: T201


if __name__ == "__main__":
    main()
