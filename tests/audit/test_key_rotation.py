"""Rotating and moving a keyring: no key is ever lost, and no old copy opens afterwards."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from audit.errors import Conflict, VerificationFailed
from audit.key_manager import KeyDestroyed, KeyringUnavailable
from audit.key_managers import FILE_SETTINGS, SETTINGS_FILE, ManagerSettings
from audit.keyring import Keyring
from tests.audit.custodians import transit
from tests.audit.keyrings import exchange, filled_keyring, read_all, stored
from tests.audit.transit_server import TOKEN, Fault, TransitServer


@pytest.fixture
def server() -> Iterator[TransitServer]:
    with TransitServer().running() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keyring"


@pytest.fixture
def keys(folder: Path) -> dict[str, bytes]:
    return filled_keyring(folder)


@pytest.fixture
def vault(server: TransitServer, folder: Path, keys: dict[str, bytes]) -> ManagerSettings:
    return transit(server.address, TOKEN, folder).settings


@pytest.fixture
def keyring(folder: Path, keys: dict[str, bytes]) -> Iterator[Keyring]:
    with Keyring.open(folder) as opened:
        yield opened


@pytest.fixture
def in_vault(keyring: Keyring, vault: ManagerSettings) -> Keyring:
    keyring.move(vault)
    return keyring


def keks(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("kek-*")}


def test_rotation_replaces_the_key_encryption_key(
    keyring: Keyring, folder: Path, keys: dict[str, bytes]
) -> None:
    before = keks(folder)
    progress: list[tuple[int, int]] = []
    assert keyring.rotate(lambda done, total: progress.append((done, total))) == len(keys)
    assert progress[0] == (0, len(keys))
    assert progress[-1] == (len(keys), len(keys))
    assert len(keks(folder)) == 1
    assert not keks(folder) & before
    assert keyring.status().retiring == ()
    for ring in (keyring, Keyring.open(folder)):
        assert read_all(ring) == keys
        with pytest.raises(KeyDestroyed):
            ring.data_key("destroyed")
        ring.close()


def test_rotation_needs_no_keys(tmp_path: Path) -> None:
    with Keyring.create(tmp_path / "empty") as keyring:
        assert keyring.rotate() == 0
        assert len(keyring.generate_data_key("a")) == 32


def test_there_and_back(
    keyring: Keyring, folder: Path, keys: dict[str, bytes], vault: ManagerSettings
) -> None:
    with Keyring.open(folder) as running:  # a service that was there before
        assert keyring.move(vault) == len(keys)
        assert keks(folder) == set()
        assert keyring.status().managers == (vault,)
        new = running.generate_data_key("new")
        assert all(key_id.startswith(f"{vault.id}:v") for key_id, _ in stored(folder).values())
        assert keyring.move(FILE_SETTINGS) == len(keys) + 1
        assert len(keks(folder)) == 1
        assert keyring.status().managers == (FILE_SETTINGS,)
        assert read_all(running) == read_all(keyring) == keys | {"data new": new}


def test_what_vault_wrapped_is_useless_once_the_keyring_left(
    in_vault: Keyring, folder: Path, tmp_path: Path
) -> None:
    stolen = tmp_path / "stolen"
    shutil.copytree(folder, stolen)
    in_vault.move(FILE_SETTINGS)
    with Keyring.open(stolen) as copy, pytest.raises(KeyringUnavailable):
        copy.data_key("key-0")


def test_settings_hold_no_secret_and_are_private(in_vault: Keyring, folder: Path) -> None:
    settings = folder / SETTINGS_FILE
    assert settings.stat().st_mode & 0o777 == 0o600
    assert TOKEN not in settings.read_text()


def test_data_keys_do_not_leave_vault_for_a_rotation(
    in_vault: Keyring, server: TransitServer, keys: dict[str, bytes]
) -> None:
    server.requests.clear()
    in_vault.rotate()
    assert server.calls("/decrypt/") == 0
    assert server.calls("/rewrap/") == len(keys)
    assert read_all(in_vault) == keys
    (versions,) = [sorted(key.versions) for key in server.keys.values()]
    assert len(versions) == 1


def test_a_manager_that_does_not_work_changes_nothing(
    keyring: Keyring,
    folder: Path,
    keys: dict[str, bytes],
    server: TransitServer,
    vault: ManagerSettings,
) -> None:
    before = stored(folder)
    server.denied.add("/decrypt/")
    with pytest.raises(KeyringUnavailable):
        keyring.move(vault)
    assert stored(folder) == before
    assert not (folder / SETTINGS_FILE).exists()


def test_moving_to_where_it_is_rotates(
    in_vault: Keyring, vault: ManagerSettings, keys: dict[str, bytes]
) -> None:
    again = ManagerSettings("vault", vault.options, cache_seconds=5)
    assert again.id != vault.id
    in_vault.move(again)
    (manager,) = in_vault.status().managers
    assert (manager.id, manager.cache_seconds) == (vault.id, 5)
    assert read_all(in_vault) == keys


def test_the_same_key_by_another_name_is_not_destroyed(
    in_vault: Keyring, vault: ManagerSettings, keys: dict[str, bytes]
) -> None:
    """Such as the same Vault under another address: the versions of one are those of the other."""
    for seconds in (2, 3):
        renamed = ManagerSettings("vault", {**vault.options, "timeout_seconds": seconds})
        in_vault.move(renamed)
        assert in_vault.status().managers == (renamed,)
        with Keyring.open(in_vault._directory) as again:
            assert read_all(again) == keys


# Old copies.


def test_old_copies_of_the_database_are_useless_after_a_rotation(
    keyring: Keyring, folder: Path, tmp_path: Path
) -> None:
    stolen = tmp_path / "stolen"
    stolen.mkdir()
    shutil.copyfile(folder / "keyring.sqlite", stolen / "keyring.sqlite")
    keyring.destroy("key-0")
    keyring.rotate()
    for path in folder.glob("kek-*"):
        shutil.copyfile(path, stolen / path.name)
    with Keyring.open(stolen) as copy:
        for name in copy.names():
            with pytest.raises(KeyringUnavailable):
                copy.data_key(name)


def test_old_copies_of_the_whole_folder_are_useless_after_a_rotation_in_vault(
    in_vault: Keyring, folder: Path, tmp_path: Path
) -> None:
    stolen = tmp_path / "stolen"
    shutil.copytree(folder, stolen)
    in_vault.destroy("key-0")
    in_vault.rotate()
    with Keyring.open(stolen) as copy:
        for name in copy.names():
            with pytest.raises(KeyringUnavailable, match="no such version"):
                copy.data_key(name)


def test_a_copy_of_the_whole_folder_with_a_key_in_a_file_opens(
    keyring: Keyring, folder: Path, tmp_path: Path, keys: dict[str, bytes]
) -> None:
    """What docs/key-management.md says nothing can be done about."""
    stolen = tmp_path / "stolen"
    shutil.copytree(folder, stolen)
    keyring.destroy("key-0")
    keyring.rotate()
    with Keyring.open(stolen) as copy:
        assert copy.data_key("key-0") == keys["data key-0"]


# What goes wrong.


@pytest.mark.parametrize(
    "operation", ["rotate", "move to vault", "rotate in vault", "move to file"]
)
def test_killed_anywhere_every_key_stays_readable(
    operation: str, tmp_path: Path, server: TransitServer
) -> None:
    """Also: what was left is ended by the next rotation, and old copies are useless then."""
    program = Path(__file__).with_name("killed_rotation.py")
    arguments = (str(tmp_path), server.address, operation)
    done = subprocess.run(
        [sys.executable, "-m", "tests.audit.killed_rotation", *arguments],
        cwd=program.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["kills"] > 30
    assert outcome["left_unfinished"] > 5


@pytest.mark.parametrize("done", [True, False], ids=["done, answer lost", "not done"])
@pytest.mark.parametrize("operation", ["rotate", "move"])
def test_each_request_of_a_rotation_may_fail(
    operation: str,
    done: bool,
    server: TransitServer,
    keyring: Keyring,
    vault: ManagerSettings,
    keys: dict[str, bytes],
) -> None:
    def run() -> None:
        if operation == "move":
            keyring.move(vault)
        else:
            keyring.rotate()

    if operation == "rotate":
        keyring.move(vault)
    server.requests.clear()
    failures = 0
    while True:
        server.faults.append(Fault(500, ("lost",), done=done, skip=failures))
        try:
            run()
        except KeyringUnavailable:
            failures += 1
            server.faults.clear()
            assert read_all(keyring) == keys
            if operation == "move":
                keyring.move(FILE_SETTINGS)
            else:
                keyring.rotate()
            assert read_all(keyring) == keys
            assert keyring.status().retiring == ()
            continue
        break
    server.faults.clear()
    assert failures > len(keys)
    assert read_all(keyring) == keys
    assert keyring.status().retiring == ()


def test_a_changed_key_stops_the_rotation_and_destroys_nothing(
    keyring: Keyring, folder: Path, keys: dict[str, bytes]
) -> None:
    exchange(folder, "key-0", "key-1")
    with pytest.raises(VerificationFailed, match=r"data key key-[01] was changed"):
        keyring.rotate()
    exchange(folder, "key-0", "key-1")
    assert read_all(keyring) == keys
    keyring.rotate()
    assert read_all(keyring) == keys
    assert len(keks(folder)) == 1


def test_exchanged_in_vault_they_refuse_before_and_after_a_rotation(
    in_vault: Keyring, folder: Path
) -> None:
    exchange(folder, "key-0", "key-1")
    for _ in range(2):
        for name in ("key-0", "key-1"):
            with pytest.raises(VerificationFailed):
                in_vault.data_key(name)
        in_vault.rotate()


# What happens at the same time.


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def held(server: TransitServer, path: str, release: threading.Event) -> Fault:
    """The next request of its kind is worked on, and answered when `release` is set."""
    fault = Fault(200, done=True, path=path, wait_for=release)
    server.faults.append(fault)
    return fault


def during(fault: Fault, release: threading.Event, meanwhile: Callable[[], object]) -> None:
    assert fault.reached.wait(30)
    try:
        meanwhile()
    finally:
        release.set()


def test_a_key_wrapped_before_a_rotation_is_not_stored_after_it(
    in_vault: Keyring, folder: Path, server: TransitServer, pool: ThreadPoolExecutor
) -> None:
    release = threading.Event()
    fault = held(server, "/encrypt/", release)
    made = pool.submit(in_vault.generate_data_key, "late")
    with Keyring.open(folder) as operator:
        during(fault, release, operator.rotate)
        assert made.result() == operator.data_key("late")
    assert stored(folder)["data late"][0] == in_vault.status().managers[0].id + ":v3"


def test_a_key_destroyed_during_a_rotation_stays_destroyed(
    in_vault: Keyring, folder: Path, server: TransitServer, pool: ThreadPoolExecutor
) -> None:
    release = threading.Event()
    fault = held(server, "/rewrap/", release)
    rotated = pool.submit(in_vault.rotate)
    with Keyring.open(folder) as other:
        during(fault, release, lambda: [other.destroy(f"key-{n}") for n in range(3)])
    rotated.result()
    for number in range(3):
        with pytest.raises(KeyDestroyed):
            in_vault.data_key(f"key-{number}")
    assert in_vault.status().retiring == ()


def test_the_later_of_two_rotations_wins(
    in_vault: Keyring,
    folder: Path,
    server: TransitServer,
    pool: ThreadPoolExecutor,
    keys: dict[str, bytes],
) -> None:
    release = threading.Event()
    fault = held(server, "/rewrap/", release)
    first = pool.submit(in_vault.rotate)
    with Keyring.open(folder) as other:
        during(fault, release, other.rotate)
        with pytest.raises(Conflict):
            first.result()
        assert read_all(other) == read_all(in_vault) == keys
        assert other.status().retiring == ()


def test_keys_are_made_and_read_while_rotations_go_on(folder: Path, keys: dict[str, bytes]) -> None:
    """Readers and writers in other threads, with a file: nothing fails, nothing is lost."""
    stop = threading.Event()

    def work(number: int) -> dict[str, bytes]:
        made: dict[str, bytes] = {}
        with Keyring.open(folder) as ring:
            while len(made) < 40 and not (made and stop.is_set()):
                name = f"worker-{number}-{len(made)}"
                made[f"data {name}"] = ring.generate_data_key(name)
                assert ring.data_key("key-0") == keys["data key-0"]
        return made

    with ThreadPoolExecutor(2) as pool, Keyring.open(folder) as operator:
        workers = [pool.submit(work, number) for number in range(2)]
        for _ in range(4):
            operator.rotate()
        stop.set()
        for worker in workers:
            keys |= worker.result()
        assert read_all(operator) == keys
