"""Who sends a long answer waits for a turn, and not for ever."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from client.arrays import arrays_digest, pack_arrays
from client.fleet_content import INLINE_BYTES
from client.flower import FleetConnection
from server import turns as turns_module
from server.superlink import Answer
from server.turns import Turns
from tests.server.conftest import until
from tests.server.test_superlink import REPORT, collect, poll
from tests.server.wired import Wired, wired


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 20))


async def still_waits(task: asyncio.Task[None]) -> bool:
    await asyncio.sleep(0.05)
    return not task.done()


def test_no_more_than_so_many_at_once() -> None:
    async def scene() -> None:
        turns = Turns(at_once=2, patience_seconds=60)
        await turns.take(b"a")
        await turns.take(b"b")
        third = asyncio.create_task(turns.take(b"c"))
        fourth = asyncio.create_task(turns.take(b"d"))
        assert await still_waits(third)
        await turns.take(b"a")  # who has a turn keeps it
        turns.give(b"nobody")
        turns.give(b"d")  # only waits
        assert await still_waits(third)
        turns.give(b"a")
        await third
        assert await still_waits(fourth)
        turns.give(b"c")
        await fourth

    run(scene())


def test_another_thread_gives() -> None:
    async def scene() -> None:
        turns = Turns(at_once=1, patience_seconds=60)
        await turns.take(b"a")
        waiting = asyncio.create_task(turns.take(b"b"))
        assert await still_waits(waiting)
        threading.Thread(target=turns.give, args=(b"a",)).start()
        await waiting

    run(scene())


def test_nobody_waits_for_ever() -> None:
    async def scene() -> None:
        turns = Turns(at_once=1, patience_seconds=0.3)
        await turns.take(b"keeps it")
        await asyncio.gather(*(turns.take(bytes([number])) for number in range(20)))

    run(scene())


def test_a_server_that_stops_lets_everybody_go_on() -> None:
    async def scene() -> None:
        turns = Turns(at_once=1, patience_seconds=60)
        await turns.take(b"a")
        waiting = asyncio.create_task(turns.take(b"b"))
        assert await still_waits(waiting)
        turns.close()
        await waiting
        await turns.take(b"c")

    run(scene())


def test_giving_after_the_loop_has_ended_is_no_error() -> None:
    turns = Turns()
    turns.give(b"a")
    run(turns.take(b"a"))
    turns.give(b"a")


# --- over the wire --------------------------------------------------------------------------------

STATE = {"weights": np.arange(INLINE_BYTES // 4 + 1, dtype=np.float32)}
"""Too long for one call: an answer takes several, and its turn over all of them."""

SHORT = {"weights": np.arange(4, dtype=np.float32)}


@pytest.fixture
def net(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wired]:
    with wired(tmp_path) as made:
        monkeypatch.setattr(made.link.turns, "_at_once", 1)
        yield made


def test_long_answers_wait_for_each_other_and_all_arrive(net: Wired) -> None:
    names = [f"site-{number}" for number in range(4)]
    files = {name: net.admit(name) for name in names}
    run_id = net.link.open_run()
    taken: list[str] = []
    updates = {name: {"weights": STATE["weights"] + number} for number, name in enumerate(names)}
    updates["site-3"] = SHORT

    def serve(name: str) -> None:
        with net.connect(files[name]) as connection:
            if connection.reply_arrays(poll(connection), updates[name], REPORT):
                taken.append(name)

    threads = [threading.Thread(target=serve, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    until(lambda: net.link.online() >= set(names), "all online")
    task: dict[str, str | int] = {"plan_id": "plan", "round": 0}
    waiting = net.link.send(
        run_id, "train", dict.fromkeys(names, task), pack_arrays(STATE), reply_bytes=0
    )
    # The short one and one long one arrive; the others' bodies are not even read.
    until(lambda: len(taken) == 2, "two answers")
    threading.Event().wait(0.5)
    assert len(taken) == 2
    assert "site-3" in taken
    while waiting:
        for site, answer in collect(net, run_id, waiting).items():
            assert isinstance(answer, Answer), answer
            assert arrays_digest(answer.arrays) == arrays_digest(updates[site])
            del waiting[site]
    for thread in threads:
        thread.join()
    assert sorted(taken) == names
    assert net.link.turns._held == {}
    net.link.close_run(run_id, completed=True)


def test_a_late_answer_gives_its_turn_back(net: Wired) -> None:
    files, run_id = net.admit("late"), net.link.open_run()
    whole = {"weights": np.zeros(INLINE_BYTES // 8, dtype=np.float32)}
    with net.connect(files) as connection:
        task: dict[str, str | int] = {"plan_id": "plan", "round": 0}
        waiting = net.link.send(run_id, "train", {"late": task}, pack_arrays(SHORT), reply_bytes=0)
        mine = poll(connection)
        net.link.discard(waiting.values())
        assert not connection.reply_arrays(mine, whole, REPORT)
        assert net.link.turns._held == {}
        waiting = net.link.send(run_id, "train", {"late": task}, pack_arrays(SHORT), reply_bytes=0)
        assert connection.reply_arrays(poll(connection), whole, REPORT)
        assert len(net.link.turns._held) == 1
        assert collect(net, run_id, waiting)
        assert net.link.turns._held == {}
    net.link.close_run(run_id, completed=True)


def test_a_site_that_keeps_its_turn_delays_the_others_and_no_more(
    net: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends half of a body and stops; the next site's answer is in before its time is over."""
    monkeypatch.setattr(net.link.turns, "_patience_seconds", 1.0)
    slow, other = net.admit("slow"), net.admit("other")
    run_id = net.link.open_run()
    task: dict[str, str | int] = {"plan_id": "plan", "round": 0}
    ended, stuck = threading.Event(), threading.Event()
    with net.connect(slow) as stalling, net.connect(other) as connection:
        waiting = net.link.send(
            run_id, "train", {"slow": task, "other": task}, pack_arrays(STATE), reply_bytes=0
        )
        mine = poll(connection)
        stall = threading.Thread(target=_stall, args=(stalling, slow.public_key, stuck, ended))
        stall.start()
        assert stuck.wait(10)
        until(lambda: len(net.link.turns._held) == 1, "the slow site has the turn")
        assert connection.reply_arrays(mine, STATE, REPORT)
        (site,) = collect(net, run_id, waiting)
        assert site == "other"
        ended.set()
        stall.join()
    net.link.close_run(run_id, completed=False)


def _stall(
    connection: FleetConnection, key: str, stuck: threading.Event, ended: threading.Event
) -> None:
    def body() -> Iterator[bytes]:
        yield b"\0" * turns_module.LONG_BODY_BYTES
        stuck.set()
        ended.wait(20)

    header = base64.b64encode(key.encode()).decode()
    url = f"{connection._client._base_url}/v1/fleet/push-answer"
    with pytest.raises(httpx.HTTPError):
        connection._client._client.post(
            url, content=body(), headers={"flwr-public-key": header}
        ).raise_for_status()
