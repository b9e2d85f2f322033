"""Whose keys a site believes: the log says so once, and nobody afterwards."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.errors import FiduciaryError, MalformedInput, NotFound, VerificationFailed
from audit.keys import SigningKey
from audit.leaf import Leaf
from audit.statement import sign_statement
from client.peers import Peers
from client.reveals import AlreadyRevealed, Reveals
from client.secure_aggregation.messages import Session
from compliance.log_views import LogProof
from compliance.resources import SiteView
from compliance.statements import SiteEnrolment, utc_now
from tests.client.site.world import World


class Directory:
    """The part of the compliance service that tells of sites, over the world's real log."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.views: dict[str, SiteView] = {}
        self.asked: list[str] = []

    def enrol(self, name: str, key: SigningKey, **changes: str) -> None:
        """Let a site enrol; `changes` are what its statement says otherwise."""
        view = self.world.compliance.views[self.world.site.name]
        body = SiteEnrolment.from_body(view.statement.body).model_copy(
            update={
                "site": name,
                "identity_key": key.public.encoded(),
                "requested_at": utc_now(),
                **changes,
            }
        )
        statement = sign_statement(body.body(), key)
        position = self.world.compliance._log("site.enrolled", statement)
        self.views[name] = view.model_copy(
            update={
                "name": name,
                "statement": statement,
                "identity_key": key.public.encoded(),
                "enrolled_position": position,
            }
        )

    def site(self, name: str) -> SiteView:
        self.asked.append(name)
        if name not in self.views:
            raise NotFound(f"no site {name}")
        return self.views[name]

    def log_proof(self, position: int) -> LogProof:
        return self.world.compliance.log_proof(position)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """As `StopSignal.interruptible`: good for one block."""
    yield


@pytest.fixture
def directory(world: World) -> Directory:
    return Directory(world)


def test_several_keys_are_learned_at_once(world: World, directory: Directory) -> None:
    keys = {name: SigningKey.generate(name) for name in ("east", "south", "west")}
    for name, key in keys.items():
        directory.enrol(name, key)
    found = Peers(world.site, directory).of(sorted(keys), quiet)
    assert found == {name: key.public for name, key in keys.items()}
    assert directory.asked == sorted(keys)


def test_a_key_is_learned_once_and_believed_from_then_on(
    world: World, directory: Directory
) -> None:
    first, second = SigningKey.generate("south"), SigningKey.generate("south")
    directory.enrol("south", first)
    peers = Peers(world.site, directory)
    found = peers.of(["north", "south"], quiet)
    assert found == {"north": world.site.identity.public, "south": first.public}
    directory.enrol("south", second)
    assert Peers(world.site, directory).of(["south"], quiet) == {"south": first.public}
    assert directory.asked == ["south"]
    assert [entry.action for entry in _entries(world)].count("peer-learned") == 1

    peers.forget("south")
    assert Peers(world.site, directory).of(["south"], quiet) == {"south": second.public}
    with pytest.raises(NotFound, match="no key of east is remembered"):
        peers.forget("east")


def test_what_does_not_verify_is_not_believed(world: World, directory: Directory) -> None:
    key, other = SigningKey.generate("south"), SigningKey.generate("other")
    peers = Peers(world.site, directory)
    with pytest.raises(NotFound):
        peers.of(["south"], quiet)

    directory.enrol("south", key, identity_key=other.public.encoded())
    with pytest.raises(VerificationFailed):
        peers.of(["south"], quiet)
    directory.enrol("south", key, site="east")
    with pytest.raises(VerificationFailed, match="another site's"):
        peers.of(["south"], quiet)
    directory.enrol("south", key, federation="banks")
    with pytest.raises(VerificationFailed, match="another site's"):
        peers.of(["south"], quiet)
    directory.enrol("south", key)
    directory.views["south"] = directory.views["south"].model_copy(update={"enrolled_position": 0})
    with pytest.raises(VerificationFailed, match="is not the enrolment of south"):
        peers.of(["south"], quiet)
    assert not world.site.paths.peers.exists()


def test_without_a_service_only_what_is_known_is_found(world: World) -> None:
    with pytest.raises(NotFound, match="no key of south is remembered") as told:
        Peers(world.site).of(["south"], quiet)
    assert told.value.fix == "run `client start`"


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"keys": {"South": "x"}}', '{"keys": {"south": "x"}}']
)
def test_a_memory_that_cannot_be_read_believes_nobody(world: World, text: str) -> None:
    world.site.paths.peers.write_text(text)
    with pytest.raises(FiduciaryError):
        Peers(world.site).of(["south"], quiet)


def _entries(world: World) -> list[Leaf]:
    return list(world.site.journal.leaves(-1, 1000))


LIST = f"sha256:{'a' * 64}"
"""Digest of the survivors that the site signed."""


def session(**changes: object) -> Session:
    fields = {
        "plan_id": f"sha256:{'1' * 64}",
        "round": 3,
        "activity": "train",
        "unit_exponent": -20,
        "nonce": "0" * 32,
    }
    return Session.model_validate({**fields, **changes})


def test_one_sum_of_a_round_is_unmasked_for_ever(tmp_path: Path) -> None:
    reveals = Reveals(tmp_path / "sums")
    reveals.check(session())
    assert reveals.mark(session(), LIST)
    assert not reveals.mark(session(), LIST), "the same again is no news"
    again = Reveals(tmp_path / "sums")
    again.check(session())
    refused = pytest.raises(AlreadyRevealed, match=r"round 4 was summed already \(train\)")
    with refused:
        again.check(session(nonce="1" * 32))
    with refused:
        again.mark(session(nonce="1" * 32), LIST)
    with refused:
        again.mark(session(), LIST.replace("a", "b"))
    for other in ({"round": 4}, {"activity": "evaluate"}, {"plan_id": f"sha256:{'2' * 64}"}):
        assert again.mark(session(nonce="1" * 32, **other), LIST)
    files = sorted(path.name for path in (tmp_path / "sums").rglob("*.json"))
    assert files == ["3-evaluate.json", "3-train.json", "3-train.json", "4-train.json"]
    assert all(
        json.loads(path.read_text())["session"] for path in (tmp_path / "sums").rglob("*.json")
    )


def test_malformed_input_is_the_product_s() -> None:
    with pytest.raises(ValueError, match="nonce"):
        session(nonce="short")
    assert issubclass(AlreadyRevealed, FiduciaryError)
    assert not issubclass(AlreadyRevealed, MalformedInput)
