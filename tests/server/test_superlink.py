"""The contract with Flower's internals: our SuperLink and our site adapter over the real ports."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectRequest

from audit.errors import MalformedInput, Unauthorised, Unreachable
from client import flower
from client.arrays import Arrays, arrays_digest, pack_arrays, unpack_arrays
from client.fleet_content import INLINE_BYTES
from client.fleet_frames import PUSH_ANSWER, Frames
from client.fleet_tasks import IncomingTask
from client.flower import FleetConnection
from server.asgi import Problem
from server.errors import PortInUse
from server.gate import FLEET
from server.listeners import bind
from server.mailboxes import Mailboxes
from server.superlink import Answer, Lost
from server.superlink import link as link_module
from server.superlink.messages import task_for
from tests.server.conftest import until
from tests.server.wired import Authority, Wired, wired

STATE: dict[str, npt.NDArray[Any]] = {
    "head.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "bias": np.array([1, 2], dtype=np.float32),
}
LONG: dict[str, npt.NDArray[Any]] = {"weights": np.arange(INLINE_BYTES // 4 + 1, dtype=np.float32)}
"""Too long to travel in one call with its message."""

REPORT = {"site": "st-elm", "statement": "{}"}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    with wired(tmp_path_factory.mktemp("net")) as made:
        yield made


def poll(connection: FleetConnection) -> IncomingTask:
    for _ in range(100):
        task = connection.poll(0.2)
        if task is not None:
            return task
    raise AssertionError("no task came")


def collect(net: Wired, run_id: int, waiting: dict[str, str]) -> dict[str, Answer | Lost]:
    settled: dict[str, Answer | Lost] = {}
    for _ in range(200):
        settled.update(net.link.collect(run_id, waiting))
        if settled:
            return settled
        net.link.wait_for_arrival(0.1)
    raise AssertionError("no answer came")


def ask(
    net: Wired,
    run_id: int,
    site: str,
    kind: Any = "train",
    round_index: int = 0,
    state: dict[str, npt.NDArray[Any]] = STATE,
) -> str:
    task: dict[str, str | int] = {"plan_id": "plan", "round": round_index}
    arrays = pack_arrays(state)
    sent = net.link.send(run_id, kind, {site: task}, arrays, reply_bytes=len(arrays))
    return sent[site]


def test_a_task_goes_out_and_its_answer_comes_back(net: Wired) -> None:
    files, run_id = net.admit("answers"), net.link.open_run()
    with net.connect(files) as connection:
        assert net.link.online() >= {"answers"}
        message_id = ask(net, run_id, "answers", round_index=3)
        task = poll(connection)
        assert (task.kind, task.plan_id, task.round) == ("train", "plan", 3)
        assert arrays_digest(task.state) == arrays_digest(STATE)
        update = {name: array + 1 for name, array in task.state.items()}
        assert connection.reply_arrays(task, update, REPORT)
        (answer,) = collect(net, run_id, {"answers": message_id}).values()
    assert isinstance(answer, Answer)
    assert arrays_digest(answer.arrays) == arrays_digest(update)
    assert answer.report == {"plan_id": "plan", "round": 3, "site": "st-elm", "statement": "{}"}
    assert not answer.refused
    net.link.close_run(run_id, completed=True)
    assert len(net.link._state.object_store) == 0


def test_arrays_longer_than_an_object_may_be_come_in_parts(net: Wired) -> None:
    files, run_id = net.admit("large"), net.link.open_run()
    with net.connect(files) as connection:
        sent = {"large": ask(net, run_id, "large", state=LONG)}
        received = poll(connection)
        assert arrays_digest(received.state) == arrays_digest(LONG)
        update = {"weights": received.state["weights"] + 1}
        assert connection.reply_arrays(received, update, REPORT)
        (answer,) = collect(net, run_id, sent).values()
    assert isinstance(answer, Answer)
    assert arrays_digest(answer.arrays) == arrays_digest(update)
    net.link.close_run(run_id, completed=True)
    assert len(net.link._state.object_store) == 0


def test_an_evaluation_and_a_refusal_come_back(net: Wired) -> None:
    files, run_id = net.admit("says-no"), net.link.open_run()
    with net.connect(files) as connection:
        message_id = ask(net, run_id, "says-no", "evaluate")
        counts = {"confusion": np.array([[3, 1], [0, 4]], dtype=np.int64)}
        assert connection.reply_arrays(poll(connection), counts, REPORT)
        (answer,) = collect(net, run_id, {"says-no": message_id}).values()
        assert isinstance(answer, Answer)
        np.testing.assert_array_equal(answer.arrays["confusion"], counts["confusion"])

        message_id = ask(net, run_id, "says-no")
        assert connection.reply_refusal(poll(connection), "purpose", "not ours", {"a": 1})
        (answer,) = collect(net, run_id, {"says-no": message_id}).values()
        assert isinstance(answer, Answer)
        assert answer.refused
        assert answer.report == {"code": "purpose", "reason": "not ours", "statement": '{"a": 1}'}
    net.link.close_run(run_id, completed=False)


def test_equal_answers_of_several_sites_all_arrive(net: Wired) -> None:
    """Equal objects are stored once; none may vanish with another site's message."""
    names, run_id = [f"twin-{number}" for number in range(4)], net.link.open_run()
    files = {name: net.admit(name) for name in names}

    def serve(name: str) -> None:
        with net.connect(files[name]) as connection:
            for _ in range(3):
                task = poll(connection)
                connection.reply_arrays(task, task.state, REPORT)

    threads = [threading.Thread(target=serve, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    until(lambda: net.link.online() >= set(names), "all twins online")
    for round_index in range(3):
        task: dict[str, str | int] = {"plan_id": "plan", "round": round_index}
        tasks = dict.fromkeys(names, task)
        waiting = net.link.send(run_id, "train", tasks, pack_arrays(STATE), reply_bytes=0)
        assert set(waiting) == set(names)
        while waiting:
            for site, answer in collect(net, run_id, waiting).items():
                assert isinstance(answer, Answer), answer
                del waiting[site]
    for thread in threads:
        thread.join()
    net.link.close_run(run_id, completed=True)


def test_a_late_answer_finds_no_taker_and_the_next_task_does(net: Wired) -> None:
    files, run_id = net.admit("late"), net.link.open_run()
    with net.connect(files) as connection:
        message_id = ask(net, run_id, "late")
        task = poll(connection)
        net.link.discard([message_id])
        assert not connection.reply_arrays(task, STATE, REPORT)
        message_id = ask(net, run_id, "late", round_index=1)
        assert connection.reply_arrays(poll(connection), STATE, REPORT)
        (answer,) = collect(net, run_id, {"late": message_id}).values()
        assert isinstance(answer, Answer)
        # The same answer again is not taken a second time.
        assert not connection.reply_arrays(task, STATE, REPORT)
    net.link.close_run(run_id, completed=True)


@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.parametrize("broken_call", [0, 1, 3])
def test_an_answer_survives_a_cut_connection(
    net: Wired, monkeypatch: pytest.MonkeyPatch, broken_call: int, arrived: bool
) -> None:
    """A short answer is one call, a long one several; what is lost is the call, or what it said."""
    monkeypatch.setattr(flower, "RESEND_PAUSES_SECONDS", (0.0,))
    files, run_id = net.admit(f"cut-{broken_call}-{arrived}"), net.link.open_run()
    state = LONG if broken_call else STATE
    with net.connect(files) as connection:
        message_id = ask(net, run_id, files.name, state=state)
        task = poll(connection)
        calls, whole = 0, connection._client._client.send

        def cut(request: httpx.Request, **options: Any) -> httpx.Response:
            nonlocal calls
            calls += 1
            if calls == broken_call + 1 and not arrived:
                raise httpx.ReadError("cut")
            response: httpx.Response = whole(request, **options)
            if calls == broken_call + 1:
                raise httpx.ReadError("cut")
            return response

        monkeypatch.setattr(connection._client._client, "send", cut)
        assert connection.reply_arrays(task, state, REPORT)
        (answer,) = collect(net, run_id, {files.name: message_id}).values()
        assert isinstance(answer, Answer)
        assert arrays_digest(answer.arrays) == arrays_digest(state)
        assert calls > broken_call + 1
    net.link.close_run(run_id, completed=True)


def test_a_task_and_its_answer_are_two_calls(net: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    files, run_id = net.admit("brief"), net.link.open_run()
    with net.connect(files) as connection:
        connection.reply_arrays(_asked(net, run_id, connection, "brief"), STATE, REPORT)
        whole, paths = connection._client._client.send, []

        def counted(request: httpx.Request, **options: Any) -> httpx.Response:
            paths.append(request.url.path.removeprefix(FLEET))
            response: httpx.Response = whole(request, **options)
            return response

        monkeypatch.setattr(connection._client._client, "send", counted)
        task = _asked(net, run_id, connection, "brief")
        assert connection.reply_arrays(task, STATE, REPORT)
    assert [path for path in paths if "heartbeat" not in path] == [
        "pull-task",
        "push-answer",
        "deactivate-node",
    ]
    net.link.close_run(run_id, completed=True)


def _asked(net: Wired, run_id: int, connection: FleetConnection, site: str) -> IncomingTask:
    ask(net, run_id, site)
    return poll(connection)


@pytest.mark.parametrize(
    "frames",
    [
        b"no frames at all",
        Frames([PushObjectRequest()]).SerializeToString()[:-1] + b"\x00\x00\x00\x01",
        b"\x00\x00\x00\x02\xff\xff",
        b"",
    ],
)
def test_a_coordinator_that_answers_with_no_frames_is_told_on(
    net: Wired, monkeypatch: pytest.MonkeyPatch, frames: bytes
) -> None:
    with net.connect(net.admit(f"hears-{len(net.recorded())}")) as connection:
        answered = connection._client._client.send

        def garbled(request: httpx.Request, **options: Any) -> httpx.Response:
            if request.url.path.endswith("pull-task"):
                return httpx.Response(200, content=frames, request=request)
            response: httpx.Response = answered(request, **options)
            return response

        monkeypatch.setattr(connection._client._client, "send", garbled)
        with pytest.raises(Unreachable, match="no Fleet message") as told:
            connection.poll(0.0)
        assert "--version" in told.value.fix


@pytest.mark.parametrize("given", ["fewer", "more", "empty", "swapped"])
def test_objects_that_are_not_the_messages_are_refused(
    net: Wired, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    files, run_id = net.admit(f"objects-{given}"), net.link.open_run()
    told: list[tuple[str, str]] = []
    with net.connect(files, on_malformed=lambda *said: told.append(said)) as connection:
        pull = connection._client.pull_task

        def hostile(request: Any) -> Frames:
            frames: Frames = pull(request)
            head, *objects = frames.framed
            match given:
                case "fewer":
                    objects.pop()
                case "more":
                    objects.append(objects[0])
                case "empty":
                    objects[0] = Frames([PullObjectResponse(object_found=True)]).framed[0]
                case "swapped":
                    objects.reverse()
            frames.framed = [head, *objects]
            return frames

        monkeypatch.setattr(connection._client, "pull_task", hostile)
        message_id = ask(net, run_id, files.name)
        assert connection.poll(5.0) is None
        assert [code for code, _ in told] == ["malformed-task"]
        (answer,) = collect(net, run_id, {files.name: message_id}).values()
        assert isinstance(answer, Answer)
        assert answer.refused
    net.link.close_run(run_id, completed=False)


def test_of_an_answer_only_what_belongs_to_it_is_kept(
    net: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, run_id = net.admit("generous"), net.link.open_run()
    with net.connect(files) as connection:
        push = connection._client.push_answer

        def more(frames: Frames) -> Frames:
            extra = PushObjectRequest(object_id="0" * 64, object_content=b"anything")
            frames.framed += Frames([extra, extra]).framed
            answer: Frames = push(frames)
            return answer

        monkeypatch.setattr(connection._client, "push_answer", more)
        message_id = ask(net, run_id, "generous")
        assert connection.reply_arrays(poll(connection), STATE, REPORT)
        assert "0" * 64 not in net.link._state.object_store
        assert collect(net, run_id, {"generous": message_id})
    net.link.close_run(run_id, completed=True)
    assert len(net.link._state.object_store) == 0


def test_an_answer_without_all_of_its_objects_is_not_taken(
    net: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, run_id = net.admit("sparing"), net.link.open_run()
    with net.connect(files) as connection:
        push = connection._client.push_answer

        def fewer(frames: Frames) -> Frames:
            frames.framed.pop()
            answer: Frames = push(frames)
            return answer

        monkeypatch.setattr(connection._client, "push_answer", fewer)
        message_id = ask(net, run_id, "sparing")
        assert not connection.reply_arrays(poll(connection), STATE, REPORT)
        assert net.link.collect(run_id, {"sparing": message_id}) == {}
    net.link.close_run(run_id, completed=False)


def test_a_held_poll_returns_as_soon_as_a_task_is_there(net: Wired) -> None:
    files, run_id = net.admit("waits"), net.link.open_run()
    with net.connect(files) as connection:
        assert connection.poll(0.0) is None
        timer = threading.Timer(0.3, ask, args=(net, run_id, "waits"))
        timer.start()
        started = time.monotonic()
        assert connection.poll(15.0) is not None
        assert time.monotonic() - started < 10
        timer.join()
    net.link.close_run(run_id, completed=True)


def test_no_poll_finds_a_task_before_its_objects_are_there(
    net: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, run_id, state = net.admit("hasty"), net.link.open_run(), net.link._state
    store = state.store_object

    def slowly(*arguments: Any) -> bool:
        time.sleep(0.2)
        return bool(store(*arguments))

    monkeypatch.setattr(state, "store_object", slowly)
    malformed: list[tuple[str, str]] = []
    with net.connect(files, on_malformed=lambda *said: malformed.append(said)) as connection:
        asking = threading.Thread(target=ask, args=(net, run_id, "hasty"))
        asking.start()
        task = None
        while task is None and not malformed:
            task = connection.poll(0.0)
        asking.join()
    assert malformed == []
    net.link.close_run(run_id, completed=True)


def test_a_poll_that_comes_after_its_task_is_not_held(net: Wired) -> None:
    """One poll finds each task, so that a round costs none that finds nothing."""
    files, run_id = net.admit("prompt"), net.link.open_run()
    with net.connect(files) as connection:
        for _ in range(2):
            message_id = ask(net, run_id, "prompt")
            connection._client._client.timeout = httpx.Timeout(10.0)  # shorter than the hold
            task = connection.poll(20.0)
            assert task is not None
            connection.reply_arrays(task, STATE, REPORT)
            assert collect(net, run_id, {"prompt": message_id})
    net.link.close_run(run_id, completed=True)


def test_what_is_notified_before_anybody_waits_is_kept() -> None:
    async def gone() -> dict[str, object]:
        await asyncio.sleep(60)
        return {}

    mailboxes = Mailboxes()
    mailboxes.notify(b"early")
    asyncio.run(asyncio.wait_for(mailboxes.wait(b"early", 60, gone), 10))
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(Mailboxes().wait(b"nobody", 60, gone), 0.1))


def test_a_task_is_not_handed_to_a_caller_who_has_gone(
    net: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that dies while its poll is held must not swallow the next task."""
    files, run_id, held = net.admit("gone"), net.link.open_run(), list[bool]()
    wait = net.link.mailboxes.wait

    async def watched(*arguments: Any) -> bool:
        held.append(await wait(*arguments))
        return held[-1]

    monkeypatch.setattr(net.link.mailboxes, "wait", watched)
    with net.connect(files) as first:
        assert first.poll(0.0) is None
        first._client._client.timeout = httpx.Timeout(0.3)
        with pytest.raises(Unreachable):
            first.poll(15.0)  # the caller hangs up; the server still holds the poll
        until(lambda: held == [False], "the server noticed the hang-up")
        message_id = ask(net, run_id, "gone")
        with net.connect(files) as second:
            assert second.reply_arrays(poll(second), STATE, REPORT)
            assert collect(net, run_id, {"gone": message_id})
    net.link.close_run(run_id, completed=True)


def test_an_answer_counts_also_when_its_site_has_gone(net: Wired) -> None:
    files, run_id = net.admit("brisk"), net.link.open_run()
    with net.connect(files) as connection:
        message_id = ask(net, run_id, "brisk")
        assert connection.reply_arrays(poll(connection), STATE, REPORT)
    assert "brisk" not in net.link.online()
    (answer,) = collect(net, run_id, {"brisk": message_id}).values()
    assert isinstance(answer, Answer)
    net.link.close_run(run_id, completed=True)
    assert len(net.link._state.object_store) == 0


def test_a_task_that_is_lost_on_its_way_is_asked_again(
    net: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone with the connection; the site comes back, and the round may ask once more."""
    files, run_id = net.admit("unheard"), net.link.open_run()
    with net.connect(files) as connection:
        message_id, whole = ask(net, run_id, "unheard"), connection._client._client.send

        def lost(request: httpx.Request, **options: Any) -> httpx.Response:
            whole(request, **options)
            raise httpx.ReadError("cut")

        monkeypatch.setattr(connection._client._client, "send", lost)
        with pytest.raises(Unreachable):
            connection.poll(0.0)
        monkeypatch.setattr(connection._client._client, "send", whole)
        assert connection.poll(0.0) is None
        (outcome,) = collect(net, run_id, {"unheard": message_id}).values()
        assert isinstance(outcome, Lost)
        assert outcome.again
        message_id = ask(net, run_id, "unheard")
        assert connection.reply_arrays(poll(connection), STATE, REPORT)
        assert collect(net, run_id, {"unheard": message_id})
    net.link.close_run(run_id, completed=True)


def test_a_site_that_died_may_come_back_at_once(net: Wired) -> None:
    files = net.admit("phoenix")
    first, second = net.connect(files), net.connect(files)
    assert first.node_id == second.node_id  # no goodbye in between
    assert "phoenix" in net.link.online()
    first._client.close()
    second.close()


def test_a_site_that_says_goodbye_is_offline(net: Wired) -> None:
    files = net.admit("leaves")
    with net.connect(files):
        assert "leaves" in net.link.online()
    assert "leaves" not in net.link.online()


def test_a_site_that_is_let_out_is_refused_and_may_be_admitted_again(net: Wired) -> None:
    files = net.admit("revoked")
    with net.connect(files) as connection:
        assert connection.poll(0.0) is None
        net.link.unregister("revoked")
        with pytest.raises(Unauthorised) as refused:
            connection.poll(0.0)
        assert "server sites" in refused.value.fix
        assert "revoked" not in net.link.online() | net.link.registered()
        net.link.register("revoked", files.public_key)
        assert connection.poll(0.0) is None
        assert "revoked" in net.link.online()


def test_a_new_key_of_a_site_replaces_the_old_one(net: Wired) -> None:
    old, new = net.admit("renewed"), net.certify("renewed")
    net.link.register("renewed", new.public_key)
    with pytest.raises(Unauthorised), net.connect(old):
        pass
    with net.connect(new):
        assert "renewed" in net.link.online()


def test_an_unregistered_key_is_unauthorised_with_a_fix(net: Wired) -> None:
    with pytest.raises(Unauthorised) as refused, net.connect(net.certify("stranger")):
        pass
    assert "not admitted" in str(refused.value)
    assert refused.value.fix


def test_a_certificate_of_another_authority_is_unauthorised(net: Wired) -> None:
    foreign = net.certify("foreign", by=Authority.make("demo"))
    with pytest.raises((Unauthorised, Unreachable)), net.connect(foreign):
        pass


def test_a_server_of_another_federation_is_not_spoken_to(net: Wired) -> None:
    files = net.admit("careful")
    other = Authority.make("demo")
    files.ca.with_name("other.pem").write_bytes(other.certificate.public_bytes(Encoding.PEM))
    connection = FleetConnection(
        net.partner, files.ca.with_name("other.pem"), files.certificate, files.key
    )
    with pytest.raises(Unauthorised, match="no certificate of this federation"), connection:
        pass


def test_a_coordinator_that_is_away_is_unreachable(net: Wired) -> None:
    files = net.admit("alone")
    free = bind("127.0.0.1", 0, "fleet")
    address = f"127.0.0.1:{free.getsockname()[1]}"
    free.close()
    connection = FleetConnection(address, files.ca, files.certificate, files.key)
    with pytest.raises(Unreachable) as gone, connection:
        pass
    assert "server start" in gone.value.fix


def test_a_site_cannot_answer_in_another_sites_name(net: Wired) -> None:
    victim, attacker = net.admit("victim"), net.admit("attacker")
    run_id = net.link.open_run()
    with net.connect(victim) as connection, net.connect(attacker) as forging:
        message_id = ask(net, run_id, "victim")
        task = poll(connection)
        ask(net, run_id, "attacker")
        # The attacker learns the message's id and names the victim as its sender.
        with pytest.raises(Unauthorised, match="another site"):
            forging.reply_arrays(task, STATE, REPORT)
        assert net.link.collect(run_id, {"victim": message_id}) == {}
        assert connection.reply_arrays(task, STATE, REPORT)
    net.link.close_run(run_id, completed=True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xff",
        b"\x00\x00\x00",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x09\x0a\x00",
        b"\x00\x00\x00\x02\xff\xff",
        b"\x00\x00\x00\x04\x0a\x00\x0a\x00",
    ],
)
def test_a_push_that_is_no_message_is_refused(net: Wired, body: bytes) -> None:
    files = net.admit("garbled")
    with pytest.raises(Problem) as problem:
        net.link.check(FLEET + PUSH_ANSWER, files.public_key.encode(), body)
    assert problem.value.status == 400


def test_a_reply_is_bounded_by_what_the_task_can_need(
    net: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "REPLY_ALLOWANCE_BYTES", 20_000)
    files, run_id = net.admit("chatty"), net.link.open_run()
    with net.connect(files) as connection:
        ask(net, run_id, "chatty")
        huge = {"head.weight": np.zeros(100_000, dtype=np.float32)}
        with pytest.raises(Unreachable, match="larger than its task"):
            connection.reply_arrays(poll(connection), huge, REPORT)
    net.link.close_run(run_id, completed=True)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("query", {"task": {"plan_id": "p", "round": 0}}),
        ("query.run_this", {"task": {"plan_id": "p", "round": 0}}),
        ("query.deal", {"task": {"plan_id": "p", "round": 0}, "fab": {"hash": "1234"}}),
        ("query.deal", {"task": {"plan_id": "p", "round": 0, "document": 7}}),
        ("train", {"fab": {"hash": "1234"}}),
        ("train", {"task": {"plan_id": 7, "round": 0}}),
        ("train", {"task": {"plan_id": "p", "round": -1}}),
        ("train", {"task": {"plan_id": "p", "round": 0}}),
    ],
)
def test_a_coordinator_that_sends_something_else_is_refused_and_told_on(
    net: Wired, kind: Any, content: dict[str, dict[str, Any]]
) -> None:
    """A site runs nothing but what it installed: other messages are answered with a refusal."""
    files, run_id = net.admit(f"wary-{kind}-{len(net.recorded())}"), net.link.open_run()
    told: list[tuple[str, str]] = []
    record = RecordDict({name: ConfigRecord(values) for name, values in content.items()})
    site = files.name
    with net.connect(files, on_malformed=lambda *said: told.append(said)) as connection:
        message_id = _put_raw(net, run_id, site, kind, record)
        assert connection.poll(5.0) is None
        assert [code for code, _ in told] == ["malformed-task"]
        (answer,) = collect(net, run_id, {site: message_id}).values()
    assert isinstance(answer, Answer)
    assert answer.refused
    assert answer.report["code"] == "malformed-task"
    net.link.close_run(run_id, completed=False)


def _put_raw(net: Wired, run_id: int, site: str, kind: Any, content: RecordDict) -> str:
    node = net.link._nodes[site]
    assert isinstance(task_for(run_id, node.node_id, kind, content), Message)
    message_id = net.link._put(run_id, node, kind, content)
    assert message_id is not None
    node.allowance_bytes = 1_000_000
    net.link.mailboxes.notify(node.public_key)
    return message_id


def test_arrays_survive_and_what_is_none_is_refused() -> None:
    odd: Arrays = {
        "scalar": np.array(3.5, dtype=np.float32),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "counts": np.arange(4, dtype=np.int64).reshape(2, 2).T,
    }
    again = unpack_arrays(pack_arrays(odd))
    assert set(again) == set(odd)
    for name, array in odd.items():
        assert again[name].shape == array.shape
        np.testing.assert_array_equal(again[name], array)
    assert pack_arrays(dict(reversed(list(odd.items())))) == pack_arrays(odd)
    for broken in (b"", b"\x80\x04N.", pack_arrays(odd)[:-1]):
        with pytest.raises(MalformedInput):
            unpack_arrays(broken)


def test_a_port_in_use_is_one_clear_error() -> None:
    taken = bind("127.0.0.1", 0, "fleet")
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(PortInUse, match=f"the fleet port 127.0.0.1:{port} is taken") as error:
        bind("127.0.0.1", port, "fleet")
    assert "fleet_port" in error.value.fix
    taken.close()
    with pytest.raises(Unreachable):
        bind("192.0.2.7", 0, "fleet")
