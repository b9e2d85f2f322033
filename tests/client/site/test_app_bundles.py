"""A coordinator that ships code is refused: the site asks once what a run is, over real ports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse, Run

from audit.statement import SignedStatement, verify_statement
from client.arrays import pack_arrays
from client.flower import FleetConnection
from client.stopping import Stopped, StopSignal
from client.worker import Worker
from server.superlink import Answer, Lost
from tests.client.site.world import World
from tests.server.wired import NodeFiles, Wired, wired

FAB_HASH = "f" * 64

Task = dict[str, str | int]


def task_of(world: World, round_index: int = 0, **more: str) -> Task:
    return {"plan_id": world.plan_id, "round": round_index, **more}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    with wired(tmp_path_factory.mktemp("net")) as made:
        yield made


class Until(FleetConnection):
    """A connection that ends the worker when everything was answered."""

    done: Callable[[], bool]

    def poll(self, wait_seconds: float = 1.0) -> Any:
        if self.done():
            raise Stopped
        return super().poll(min(wait_seconds, 0.1))


def open_run(
    net: Wired, monkeypatch: pytest.MonkeyPatch, fab_id: str, version: str, fab_hash: str
) -> int:
    """A run that names an app bundle, as stock Flower makes one."""
    state = net.link._state
    create = state.create_run
    with monkeypatch.context() as patched:
        patched.setattr(
            state, "create_run", lambda *rest: create(fab_id, version, fab_hash, *rest[3:])
        )
        return net.link.open_run()


def serve(net: Wired, world: World, files: NodeFiles, run_id: int, *tasks: Task) -> list[Answer]:
    """Let a worker answer tasks of one run, each after the other."""
    answers: list[Answer] = []
    waiting: dict[str, str] = {}
    left = list(tasks)

    def done() -> bool:
        if waiting:
            for site, answer in net.link.collect(run_id, waiting).items():
                assert not isinstance(answer, Lost), answer
                answers.append(answer)
                del waiting[site]
        if not waiting and left:
            task = dict(left.pop(0))
            state = world.travelling("train", int(task["round"]), world.plan_id)
            arrays, tasks = pack_arrays(state), {files.name: task}
            waiting.update(net.link.send(run_id, "train", tasks, arrays, reply_bytes=len(arrays)))
        return not waiting

    def connect(on_malformed: Callable[[str, str], None]) -> FleetConnection:
        connection = Until(
            net.partner, files.ca, files.certificate, files.key, on_malformed=on_malformed
        )
        connection.done = done
        return connection

    Worker(
        world.site,
        connect=connect,
        service=world.compliance,
        stop=StopSignal(),
        reporter=world.notes,
    ).run()
    return answers


def times_asked(net: Wired, site: str) -> int:
    """How often a site asked what a run is."""
    return sum(
        event["actor"] == site and event["path"].endswith("/get-run") for event in net.recorded()
    )


def refused(world: World, answer: Answer) -> None:
    """The answer is this site's signed no, which is in its journal and was reported."""
    assert answer.refused
    assert answer.report["code"] == "app-bundle"
    assert "only what its operator installed" in str(answer.report["reason"])
    statement = SignedStatement.from_json(json.loads(str(answer.report["statement"])))
    verify_statement(statement, world.site.identity.public)
    assert statement.body["object"] == f"plan:{world.plan_id}"
    assert [each.digest for each in world.compliance.refusals] == [statement.digest]
    assert world.actions() == ["task-refused"]
    assert world.started() == 0


@pytest.mark.parametrize(
    ("site", "bundle"),
    [
        ("whole", ("acme/app", "1.0.0", FAB_HASH)),
        ("hash-only", ("", "", FAB_HASH)),
        ("id-only", ("acme/app", "", "")),
    ],
)
def test_a_run_that_names_a_bundle_is_refused_signed_journalled_and_reported(
    net: Wired,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    site: str,
    bundle: tuple[str, str, str],
) -> None:
    run_id = open_run(net, monkeypatch, *bundle)
    task = task_of(world)
    (answer,) = serve(net, world, net.admit(site), run_id, task)
    refused(world, answer)


def test_a_task_that_names_a_bundle_is_refused(net: Wired, world: World) -> None:
    task = task_of(world, fab_hash=FAB_HASH)
    (answer,) = serve(net, world, net.admit("named"), net.link.open_run(), task)
    refused(world, answer)


def test_a_run_without_a_bundle_is_trained_and_asked_about_once(net: Wired, world: World) -> None:
    tasks = [task_of(world, index) for index in range(3)]
    answers = serve(net, world, net.admit("plain"), net.link.open_run(), *tasks)
    assert [answer.refused for answer in answers] == [False, False, False]
    assert world.started() == 3
    assert times_asked(net, "plain") == 1
    task = task_of(world, 3)
    serve(net, world, net.admit("other"), net.link.open_run(), task)
    assert times_asked(net, "other") == 1


@pytest.mark.parametrize(
    ("site", "answer"),
    [("says-nothing", GetRunResponse()), ("says-another", GetRunResponse(run=Run(run_id=7)))],
    ids=["no run", "another run"],
)
def test_a_coordinator_that_does_not_say_what_the_run_is_is_refused(
    net: Wired,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    site: str,
    answer: GetRunResponse,
) -> None:
    calls: dict[str, Any] = net.link.fleet._calls  # type: ignore[attr-defined]  # played by it
    monkeypatch.setitem(calls, "get-run", (GetRunRequest, lambda *_: answer))
    task = task_of(world)
    (given,) = serve(net, world, net.admit(site), net.link.open_run(), task)
    refused(world, given)
