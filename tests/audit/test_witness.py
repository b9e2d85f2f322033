"""A witness: every refusal, every crash, and never a word for two histories."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint
from audit.cosignature import WitnessKey, cosign, verify_cosignature, with_lines
from audit.durable import write_durably
from audit.errors import MalformedInput
from audit.keys import SigningKey
from audit.merkle import EMPTY_ROOT, Frontier, consistency_proof, hash_leaf
from audit.witness import (
    MAX_CHECKPOINT_BYTES,
    Accepted,
    Held,
    Reason,
    Refused,
    Witness,
    WitnessMoved,
    WitnessStateAltered,
    judge,
)

ROOT = Path(__file__).parents[2]
ORIGIN = "compliance.test/log"
LOG = SigningKey.from_seed(ORIGIN, bytes(32))
STRANGER = SigningKey.from_seed(ORIGIN, bytes([7]) * 32)
NORTH = SigningKey.from_seed("hospitals/site/north", bytes([1]) * 32)
NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)


class Tree:
    """A log without storage: its leaves are given, so that two may share a beginning."""

    def __init__(self, leaves: Iterable[bytes]) -> None:
        self.heads = [Checkpoint(ORIGIN, 0, EMPTY_ROOT)]
        self._hashes: dict[tuple[int, int], bytes] = {}
        frontier = Frontier()
        for leaf in leaves:
            frontier, nodes = frontier.append(hash_leaf(leaf))
            self._hashes.update({(level, index): value for level, index, value in nodes})
            self.heads.append(Checkpoint(ORIGIN, frontier.size, frontier.root()))

    def note(self, size: int, key: SigningKey = LOG, **changes: object) -> str:
        return sign_checkpoint(dataclasses.replace(self.heads[size], **changes), key)  # type: ignore[arg-type]

    def proof(self, first: int, second: int) -> tuple[bytes, ...]:
        return consistency_proof(lambda level, i: self._hashes[level, i], first, second)


TREE = Tree(b"%d" % number for number in range(20))
FORK = Tree(b"%d" % (number if number != 3 else 99) for number in range(20))


def witness_at(
    path: Path, write: Callable[[Path, bytes], None] = write_durably, now: datetime = NOW
) -> Witness:
    return Witness(
        path, log_key=LOG.public, origin=ORIGIN, signer=NORTH, clock=lambda: now, write=write
    )


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return witness_at(tmp_path / "log-checkpoint")


def take(witness: Witness, size: int, tree: Tree = TREE) -> Held | Refused:
    """One step as a caller makes it: what is held, the proof from there, the step."""
    held = witness.held()
    since = 0 if held is None else held.checkpoint.size
    proof = tree.proof(since, size) if since <= size else ()
    return witness.advance(tree.note(size), proof, since=since)


# --- the rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 9), (1, 2), (4, 8), (7, 20), (20, 20)])
def test_a_head_that_extends_the_last_is_accepted(first: int, second: int) -> None:
    proof = TREE.proof(first, second)
    verdict = judge(TREE.heads[first], TREE.note(second), proof, LOG.public, ORIGIN)
    assert verdict == Accepted(TREE.heads[second])


def test_the_first_head_needs_no_proof() -> None:
    verdict = judge(None, TREE.note(9), (), LOG.public, ORIGIN)
    assert verdict == Accepted(TREE.heads[9])


@pytest.mark.parametrize(
    ("reason", "note", "proof", "detail"),
    [
        ("other-key", TREE.note(12, STRANGER), TREE.proof(9, 12), "another key of the name"),
        ("other-key", TREE.note(12, NORTH), TREE.proof(9, 12), "is not signed by"),
        ("other-origin", TREE.note(12, origin="other/log"), TREE.proof(9, 12), "log other/log"),
        ("shrunk", TREE.note(8), (), "has 8 entries, this witness saw 9"),
        ("shrunk", TREE.note(0), (), "has 0 entries"),
        ("forked", FORK.note(9), (), "the root of 9 entries"),
        ("rewritten", FORK.note(12), FORK.proof(9, 12), "12 entries does not extend the 9"),
        ("rewritten", TREE.note(12), (), "too few|is empty|does not extend"),
        ("rewritten", TREE.note(12), TREE.proof(8, 12), "does not extend"),
        ("rewritten", TREE.note(12), (*TREE.proof(9, 12), bytes(32)), "too many"),
        ("rewritten", TREE.note(12), (b"short", *TREE.proof(9, 12)[1:]), "5 bytes"),
    ],
)
def test_every_refusal(reason: Reason, note: str, proof: Sequence[bytes], detail: str) -> None:
    verdict = judge(TREE.heads[9], note, proof, LOG.public, ORIGIN)
    assert isinstance(verdict, Refused)
    assert verdict.reason == reason
    assert re.search(detail, verdict.detail)


def test_an_empty_log_has_one_root() -> None:
    verdict = judge(None, TREE.note(0, root=bytes(32)), (), LOG.public, ORIGIN)
    assert isinstance(verdict, Refused)
    assert verdict.reason == "forked"


@pytest.mark.parametrize(
    "note", ["", "gone", "a\n1\nAA==\n\n— a AAAAAAAA\n", "x" * (MAX_CHECKPOINT_BYTES + 1), "\ud800"]
)
def test_noise_is_malformed_and_no_accusation(note: str) -> None:
    with pytest.raises(MalformedInput):
        judge(TREE.heads[9], note, (), LOG.public, ORIGIN)


def test_lines_of_other_witnesses_change_nothing() -> None:
    other = SigningKey.from_seed("hospitals/site/south", bytes([2]) * 32)
    note = with_lines(TREE.note(9), [cosign(TREE.note(9), other, 1)])
    assert judge(None, note, (), LOG.public, ORIGIN) == Accepted(TREE.heads[9])


# --- the memory -----------------------------------------------------------------------------------


def test_what_is_handed_out_is_stored_first_and_verifies(witness: Witness, tmp_path: Path) -> None:
    assert witness.held() is None
    held = take(witness, 9)
    assert isinstance(held, Held)
    assert (tmp_path / "log-checkpoint").read_text() == held.note
    assert (tmp_path / "log-checkpoint").stat().st_mode & 0o777 == 0o600
    assert witness_at(tmp_path / "log-checkpoint").held() == held
    assert verify_checkpoint(held.note, LOG.public) == TREE.heads[9]
    assert verify_cosignature(held.note, witness.key) == (TREE.heads[9], int(NOW.timestamp()))
    assert witness.key == WitnessKey.of(NORTH.public)


def test_the_same_head_again_is_the_same_word(witness: Witness, tmp_path: Path) -> None:
    first = take(witness, 9)
    later = witness_at(tmp_path / "log-checkpoint", now=NOW + timedelta(hours=1))
    assert take(later, 9) == first
    newer = take(later, 10)
    assert isinstance(newer, Held)
    assert newer.unix_seconds == int(NOW.timestamp()) + 3600


def test_only_the_logs_line_and_its_own_are_kept(witness: Witness) -> None:
    others = [
        cosign(TREE.note(9), SigningKey.from_seed(f"w{number}", bytes(32)), 1)
        for number in range(50)
    ]
    held = witness.advance(with_lines(TREE.note(9), others), (), since=0)
    assert isinstance(held, Held)
    assert held.note == TREE.note(9) + cosign(TREE.note(9), NORTH, int(NOW.timestamp())).line()


def test_a_refusal_changes_nothing(witness: Witness) -> None:
    held = take(witness, 9)
    for size, tree in ((8, TREE), (9, FORK), (12, FORK)):
        assert isinstance(take(witness, size, tree), Refused)
        assert witness.held() == held
    assert isinstance(take(witness, 12), Held)


def test_a_file_of_an_older_version_is_believed_and_then_cosigned(tmp_path: Path) -> None:
    path = tmp_path / "log-checkpoint"
    path.write_text(TREE.note(9))
    witness = witness_at(path)
    held = witness.held()
    assert held is not None
    assert (held.checkpoint, held.unix_seconds) == (TREE.heads[9], None)
    refused = take(witness, 12, FORK)
    assert isinstance(refused, Refused)
    assert path.read_text() == TREE.note(9)
    cosigned = take(witness, 9)
    assert isinstance(cosigned, Held)
    assert verify_cosignature(path.read_text(), witness.key)[0] == TREE.heads[9]


@pytest.mark.parametrize(
    "alter",
    [
        lambda note: note.replace("\n9\n", "\n8\n"),
        lambda note: note.rpartition("\n— ")[0] + "\n— hospitals/site/north AAAAAAAA\n\n",
        lambda note: note[:-3],
        lambda note: "",
        lambda note: TREE.note(9, STRANGER),
        lambda note: TREE.note(9, origin="other/log"),
        lambda note: note.replace("— hospitals/site/north ", "— hospitals/site/north A"),
        lambda note: note[:-4] + ("A" if note[-4] != "A" else "B") + note[-3:],
        lambda note: "\x00" + note,
    ],
)
def test_an_altered_memory_is_refused_and_kept(
    witness: Witness, tmp_path: Path, alter: Callable[[str], str]
) -> None:
    take(witness, 9)
    path = tmp_path / "log-checkpoint"
    path.write_text(alter(path.read_text()))
    found = path.read_bytes()
    for attempt in (witness.held, lambda: witness.advance(TREE.note(12), (), since=9)):
        with pytest.raises(WitnessStateAltered, match="log-checkpoint does not verify") as caught:
            attempt()
        assert caught.value.fix
    assert path.read_bytes() == found
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(WitnessStateAltered, match="UTF-8"):
        witness.held()


@given(st.data())
def test_a_flipped_bit_is_refused_or_means_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("w") / "log-checkpoint"
    witness = witness_at(path)
    held = take(witness, 9)
    assert isinstance(held, Held)
    stored = bytearray(path.read_bytes())
    index = data.draw(st.integers(0, len(stored) - 1))
    stored[index] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(stored)
    try:
        read = witness.held()
    except WitnessStateAltered:
        return
    # A line whose name or key ID was changed is a stranger's, and ignored; the log's own is not.
    assert read is not None
    assert read.checkpoint == held.checkpoint
    assert read.unix_seconds in (held.unix_seconds, None)


def test_a_head_is_stored_under_the_lock(tmp_path: Path) -> None:
    path, stored = tmp_path / "log-checkpoint", []

    def write(target: Path, data: bytes) -> None:
        lock = tmp_path / "log-checkpoint.lock"
        with lock.open("a") as file, pytest.raises(BlockingIOError):  # nobody else could have it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_durably(target, data)
        stored.append(target)

    assert isinstance(take(witness_at(path, write), 9), Held)
    assert stored == [path]


def test_a_note_that_is_far_too_long_is_no_head() -> None:
    lines = tuple("x" * 100 for _ in range(700))
    with pytest.raises(MalformedInput, match="more than 65536 bytes"):
        judge(None, TREE.note(9, extensions=lines), (), LOG.public, ORIGIN)


def test_a_witness_that_another_process_moved_asks_again(witness: Witness) -> None:
    take(witness, 9)
    proof = TREE.proof(9, 10)
    take(witness, 12)
    # Not "shrunk": the log was asked before the other process went on.
    with pytest.raises(WitnessMoved, match="of 9 entries"):
        witness.advance(TREE.note(10), proof, since=9)
    with pytest.raises(WitnessMoved):
        witness.advance(TREE.note(15), (), since=0)
    held = witness.held()
    assert held is not None
    assert held.checkpoint.size == 12


# --- faults ---------------------------------------------------------------------------------------


class Full(OSError):
    """No space left on device."""


def _not_stored(path: Path, data: bytes) -> None:
    raise Full


def _stored_but_failed(path: Path, data: bytes) -> None:
    write_durably(path, data)
    raise Full


@pytest.mark.parametrize(
    ("write", "remembered"), [(_not_stored, 9), (_stored_but_failed, 12)], ids=["not", "but"]
)
def test_what_cannot_be_stored_is_not_handed_out(
    tmp_path: Path, write: Callable[[Path, bytes], None], remembered: int
) -> None:
    path = tmp_path / "log-checkpoint"
    take(witness_at(path), 9)
    failing = witness_at(path, write)
    with pytest.raises(Full):
        take(failing, 12)
    held = witness_at(path).held()
    assert held is not None
    assert held.checkpoint.size == remembered
    # Either way it goes on with the same history only.
    assert isinstance(take(witness_at(path), 12, FORK), Refused)
    assert isinstance(take(witness_at(path), 12), Held)


def test_killed_at_any_step_it_has_cosigned_one_history(tmp_path: Path) -> None:
    """Each system call of a step, killed right before it; then the fork is offered."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.audit.killed_witness", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert runs[-1]["killed"] is False
    assert len(runs) > 5
    for run in runs:
        # What was handed out is remembered; what is remembered is one of the two honest heads.
        assert run["held"] in (9, 12), run
        assert not run["told"] or run["held"] == 12, run
        assert run["fork"] in ("forked", "rewritten"), run
        assert run["next"] == 15, run
    assert {run["held"] for run in runs} == {9, 12}
    assert {run["told"] for run in runs} == {False, True}


# --- never two histories --------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[Tree]:
    """Logs that share beginnings of any length, all signed by the one log key."""
    leaves = [b"%d" % number for number in range(24)]
    trees = [Tree(leaves)]
    for number in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, 23))
        trees.append(Tree([*leaves[:at], b"fork %d" % number, *leaves[at + 1 :]]))
    return trees


@given(histories(), st.data())
def test_a_witness_never_cosigns_two_histories(
    tmp_path_factory: pytest.TempPathFactory, trees: list[Tree], data: st.DataObject
) -> None:
    """Whatever is shown in whatever order, with honest and with forged proofs, writes failing."""
    path = tmp_path_factory.mktemp("w") / "log-checkpoint"
    words: list[Checkpoint] = []
    for _ in range(data.draw(st.integers(1, 12))):
        tree = data.draw(st.sampled_from(trees))
        source = data.draw(st.sampled_from(trees))
        size = data.draw(st.integers(0, 24))
        write = data.draw(st.sampled_from([write_durably, _not_stored, _stored_but_failed]))
        witness = witness_at(path, write)
        held = witness.held()
        since = 0 if held is None else held.checkpoint.size
        proof = source.proof(min(since, size), size)
        try:
            outcome = witness.advance(tree.note(size), proof, since=since)
        except Full:
            continue
        if isinstance(outcome, Held):
            words.append(verify_cosignature(outcome.note, witness.key)[0])
    # One tree holds every head that was ever handed out, and they only grew.
    sizes = [word.size for word in words]
    assert sizes == sorted(sizes)
    assert any(all(tree.heads[word.size] == word for word in words) for tree in trees)
