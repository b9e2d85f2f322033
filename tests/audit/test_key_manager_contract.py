"""What every key manager owes the keyring: one suite, run over each of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.errors import VerificationFailed
from audit.key_manager import KeyManager, KeyringUnavailable, WrappedKey
from tests.audit.custodians import KINDS, Custodian, custodian

HERE, THERE = b"the key of subject a", b"the key of subject b"

on_one_server = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=KINDS)
def kept(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Custodian]:
    with custodian(request.param, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def manager(kept: Custodian) -> Iterator[KeyManager]:
    made = kept.open()
    yield made
    made.close()


def test_a_new_key_opens_again(manager: KeyManager, kept: Custodian) -> None:
    key, wrapped = manager.generate_data_key(HERE)
    other, _ = manager.generate_data_key(HERE)
    assert len(key) == 32
    assert key != other
    assert key not in wrapped.data
    assert len(wrapped.key_id) <= 200
    again = kept.open()
    assert manager.unwrap(wrapped, HERE) == again.unwrap(wrapped, HERE) == key
    again.close()


@on_one_server
@given(key=st.binary(min_size=32, max_size=32), context=st.binary(max_size=400))
def test_whatever_is_wrapped_comes_back(manager: KeyManager, key: bytes, context: bytes) -> None:
    assert manager.unwrap(manager.wrap(key, context), context) == key


@on_one_server
@given(data=st.data())
def test_a_changed_key_never_opens_as_another(manager: KeyManager, data: st.DataObject) -> None:
    key, wrapped = manager.generate_data_key(HERE)
    position = data.draw(st.integers(0, len(wrapped.data) - 1))
    byte = data.draw(st.integers(1, 255))
    changed = bytearray(wrapped.data)
    changed[position] ^= byte
    try:
        opened = manager.unwrap(WrappedKey(wrapped.key_id, bytes(changed)), HERE)
    except VerificationFailed:
        return
    assert opened == key  # base64 has spare bits


@pytest.mark.parametrize("cut", [0, 1, 11, 12, 27])
def test_a_cut_key_refuses(manager: KeyManager, cut: int) -> None:
    _, wrapped = manager.generate_data_key(HERE)
    with pytest.raises(VerificationFailed):
        manager.unwrap(WrappedKey(wrapped.key_id, wrapped.data[:cut]), HERE)


def test_two_wrapped_keys_cannot_be_exchanged(manager: KeyManager) -> None:
    _, here = manager.generate_data_key(HERE)
    _, there = manager.generate_data_key(THERE)
    for wrapped, context in ((here, THERE), (there, HERE), (here, b""), (here, HERE + b"\0")):
        with pytest.raises(VerificationFailed):
            manager.unwrap(wrapped, context)


def test_exchanged_before_a_rewrap_they_refuse_after_it(manager: KeyManager) -> None:
    _, here = manager.generate_data_key(HERE)
    manager.rotate()

    def open_elsewhere() -> None:
        manager.unwrap(manager.rewrap(here, THERE), THERE)

    with pytest.raises(VerificationFailed):
        open_elsewhere()


def test_rotation_and_rewrap_keep_the_key(manager: KeyManager) -> None:
    key, first = manager.generate_data_key(HERE)
    newest = manager.rotate()
    assert newest != first.key_id
    assert manager.unwrap(first, HERE) == key
    second = manager.rewrap(first, HERE)
    assert second.key_id == newest
    assert second.data != first.data
    assert manager.unwrap(second, HERE) == key
    assert manager.wrap(key, HERE).key_id == newest
    assert manager.rewrap(second, HERE).key_id == newest


def test_a_destroyed_version_opens_nothing_any_more(manager: KeyManager, kept: Custodian) -> None:
    key, first = manager.generate_data_key(HERE)
    manager.rotate()
    second = manager.rewrap(first, HERE)
    for _ in range(2):  # the second time it is gone already
        manager.destroy(first.key_id)
        again = kept.open()
        for each in (manager, again):
            assert each.unwrap(second, HERE) == key
            with pytest.raises(KeyringUnavailable):
                each.unwrap(first, HERE)
            with pytest.raises(KeyringUnavailable):
                each.rewrap(first, HERE)
        again.close()


def test_versions_between_are_no_obstacle(manager: KeyManager) -> None:
    key, first = manager.generate_data_key(HERE)
    manager.rotate()
    middle = manager.rewrap(first, HERE)
    manager.rotate()
    newest = manager.rewrap(first, HERE)
    manager.destroy(first.key_id)
    assert manager.unwrap(middle, HERE) == key
    manager.destroy(middle.key_id)
    for old in (first, middle):
        with pytest.raises(KeyringUnavailable):
            manager.unwrap(old, HERE)
    assert manager.unwrap(newest, HERE) == key


def test_the_newest_version_can_be_left_behind(manager: KeyManager) -> None:
    _, wrapped = manager.generate_data_key(HERE)
    manager.destroy(wrapped.key_id)
    with pytest.raises(KeyringUnavailable):
        manager.unwrap(wrapped, HERE)


def test_threads_may_share_it(manager: KeyManager) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        context = b"%d" % number
        try:
            for _ in range(5):
                key, wrapped = manager.generate_data_key(context)
                assert manager.unwrap(manager.rewrap(wrapped, context), context) == key
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
