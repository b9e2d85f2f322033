"""A kept answer is the very same one, for the very same question, while it may be given at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.errors import Unreachable
from audit.keyring import Keyring
from client import worker
from client.answers import Answers
from client.erasure import erase_subject
from client.kept_answers import Answer, Asked, KeptAnswers
from client.ledger import Ledger
from client.lessons import Lessons
from client.vault import Vault
from tests.client.site.world import World, report_of

PLAN = f"sha256:{'a1' * 32}"
ASKED = Asked(PLAN, 3, f"sha256:{'b2' * 32}")
ANSWER = Answer({"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"site": "n", "statement": {}})


@pytest.fixture
def keyring(tmp_path: Path) -> Any:
    with Keyring.create(tmp_path / "keyring") as made:
        yield made


def kept(tmp_path: Path, keyring: Keyring, site: str = "north") -> KeptAnswers:
    return KeptAnswers(tmp_path / "answers", keyring, site)


def test_the_same_question_finds_the_same_bytes_in_another_process(
    tmp_path: Path, keyring: Keyring
) -> None:
    kept(tmp_path, keyring).keep(ASKED, ANSWER)
    found = kept(tmp_path, keyring).find(ASKED)
    assert found is not None
    assert found.report == ANSWER.report
    np.testing.assert_array_equal(found.arrays["w"], ANSWER.arrays["w"])
    (path,) = (tmp_path / "answers").iterdir()
    assert ANSWER.arrays["w"].tobytes() not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "other",
    [
        replace(ASKED, round=2),
        replace(ASKED, plan_id=f"sha256:{'a2' * 32}"),
        replace(ASKED, state_digest=f"sha256:{'c3' * 32}"),
        # The same file, another plan.
        replace(ASKED, plan_id=PLAN[:-1] + "0"),
    ],
)
def test_another_question_finds_nothing(tmp_path: Path, keyring: Keyring, other: Asked) -> None:
    kept(tmp_path, keyring).keep(ASKED, ANSWER)
    assert kept(tmp_path, keyring).find(other) is None
    assert kept(tmp_path, keyring, "south").find(ASKED) is None


@pytest.mark.parametrize("spoil", [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[:60], bytes])
def test_a_file_that_was_altered_or_cut_off_is_none(
    tmp_path: Path, keyring: Keyring, spoil: Callable[[bytes], bytes]
) -> None:
    answers = kept(tmp_path, keyring)
    answers.keep(ASKED, ANSWER)
    (path,) = (tmp_path / "answers").iterdir()
    before = path.read_bytes()
    path.write_bytes(spoil(before) if spoil is not bytes else b"")
    assert answers.find(ASKED) is None
    answers.keep(ASKED, ANSWER)
    assert answers.find(ASKED) is not None


def test_the_next_round_takes_the_place_of_the_last(tmp_path: Path, keyring: Keyring) -> None:
    answers = kept(tmp_path, keyring)
    answers.keep(ASKED, ANSWER)
    answers.keep(replace(ASKED, round=4), ANSWER)
    assert answers.find(ASKED) is None
    assert answers.find(replace(ASKED, round=4)) is not None
    assert len(list(keyring.names())) == 1, "one key a plan"


@pytest.mark.parametrize("everything", [False, True])
def test_what_was_dropped_never_opens_again(
    tmp_path: Path, keyring: Keyring, everything: bool
) -> None:
    answers = kept(tmp_path, keyring)
    answers.keep(ASKED, ANSWER)
    (path,) = (tmp_path / "answers").iterdir()
    copy = path.read_bytes()
    if everything:
        assert answers.drop_all() == 1
    else:
        answers.drop(PLAN)
    assert not path.exists()
    assert list(keyring.names()) == []
    path.write_bytes(copy)  # from a backup
    assert answers.find(ASKED) is None
    answers.keep(ASKED, ANSWER)
    assert answers.find(ASKED) is not None
    answers.drop(f"sha256:{'d4' * 32}")


# --- in the worker --------------------------------------------------------------------------------


def test_a_restarted_worker_gives_the_same_answer_again(world: World) -> None:
    """Killed between training and the coordinator's receipt: nothing is spent for nothing."""
    world.fleet.lose_next_reply = Unreachable("killed")
    world.train(0)
    world.run()
    assert world.fleet.replies == []
    world.train(0)
    world.train(0)
    world.run()
    first, second = world.fleet.replies
    assert first.statement == second.statement
    assert report_of(first).round == 0
    assert world.started() == 1
    assert world.actions().count("round-train") == 1


class Killed(BaseException):
    """The process ends here, as by kill -9."""


@pytest.mark.parametrize("point", ["start_round", "train", "report", "keep"])
@pytest.mark.parametrize("done", [False, True])
def test_a_kill_at_any_point_of_a_round(
    world: World, monkeypatch: pytest.MonkeyPatch, point: str, done: bool
) -> None:
    """Each step fails *not done* and *done, but the process ended*; the next round goes on."""
    owner: Any = {
        "start_round": Ledger,
        "train": Lessons,
        "report": Answers,
        "keep": KeptAnswers,
    }[point]
    honest = getattr(owner, point)

    def killed(self: Any, *arguments: Any, **options: Any) -> Any:
        if done:
            honest(self, *arguments, **options)
        raise Killed

    world.train(0)
    with monkeypatch.context() as patch:
        patch.setattr(owner, point, killed)
        with pytest.raises(Killed):
            world.run()
    world.train(0)
    world.train(1)
    world.run()
    answered = [report_of(reply).round for reply in world.fleet.replies if not reply.code]
    if (point, done) in (("start_round", False), ("keep", True)):
        assert (world.codes(), answered) == ([], [0, 1])
    else:
        assert (world.codes(), answered) == (["round-already-started"], [1])
    assert world.started() == 2
    assert world.actions().count("budget-round-started") == 2


def test_an_erasure_drops_what_was_not_sent(world: World) -> None:
    world.fleet.lose_next_reply = Unreachable("killed")
    world.train(0)
    world.run()
    with Vault.open(world.site.paths, world.site.keyring) as vault, world.ledger() as ledger:
        receipt = erase_subject(world.site, vault, ledger, "P-001").receipt
    assert receipt.plans == (world.plan_id,)
    world.train(0)
    world.train(1)
    world.run()
    assert world.codes() == ["round-already-started"]
    assert report_of(world.fleet.replies[-1]).round == 1


def test_a_policy_that_was_tightened_holds_for_answers_not_yet_received(world: World) -> None:
    world.fleet.lose_next_reply = Unreachable("killed")
    world.train(0)
    world.run()
    world.allow(purposes=[])
    world.train(0)
    world.run()
    assert world.codes() == ["purpose"]


def test_an_ended_plan_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "TEND_SECONDS", 0.0)
    world.train(0)
    world.fleet.tasks.append(lambda: world.compliance.end(world.plan_id))
    world.run(once=True)
    assert list(world.site.paths.answers.iterdir()) == []
    assert not [name for name in world.site.keyring.names() if name.startswith("answer:")]
