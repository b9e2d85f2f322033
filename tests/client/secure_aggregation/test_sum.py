"""The protocol: sums are exact whoever drops out; nobody is talked into a second answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import FiduciaryError, MalformedInput, VerificationFailed
from audit.keys import SigningKey
from audit.statement import sign_statement
from client.secure_aggregation import tolerated_collusion
from client.secure_aggregation.collector import TooFewMembers
from client.secure_aggregation.member import Member, SumRefused
from client.secure_aggregation.messages import Survivors, read_document
from tests.client.secure_aggregation.federation import Sum, session_of


@settings(deadline=None, max_examples=30)
@given(data=st.data(), dtype=st.sampled_from(["<u4", "<u8"]))
def test_the_sum_of_the_survivors_is_exact_whoever_drops_out(
    data: st.DataObject, dtype: str
) -> None:
    count = data.draw(st.integers(2, 7))
    threshold = data.draw(st.integers(count // 2 + 1, count))
    one = Sum(count, threshold, length=data.draw(st.integers(0, 9)), dtype=dtype)

    def left(names: list[str]) -> list[str]:
        staying = data.draw(st.integers(threshold, len(names)))
        return sorted(data.draw(st.permutations(names))[:staying])

    members = left(one.names)
    one.keys(members)
    dealers = left(members)
    one.shares(dealers)
    survivors = left(dealers)
    one.send(survivors)
    attesting = left(survivors)
    one.attest(attesting)
    one.reveal(left(attesting))
    assert (one.collector.unmask() == one.expected(survivors)).all()


@pytest.mark.parametrize("step", ["keys", "shares", "vectors", "attestations", "reveals"])
def test_below_the_threshold_the_sum_stays_masked(step: str) -> None:
    one, few = Sum(4, 3), ["s00", "s01"]
    steps = [one.keys, one.shares, one.send, one.attest, one.reveal]
    names = ["keys", "shares", "vectors", "attestations", "reveals"]
    for name, take in zip(names, steps, strict=True):
        if name == step:
            with pytest.raises(TooFewMembers, match=f"2 sites gave their {step}, and 3 are needed"):
                take(few)
            break
        take(one.names)
    with pytest.raises(MalformedInput, match="too late, or too early, for the sum"):
        one.collector.unmask()


def test_a_masked_vector_looks_uniform_and_differs_each_time() -> None:
    """Zeros under masks: each bit is set about half the time, and two sums share nothing."""
    seen = []
    for _ in range(2):
        one = Sum(2, 2, length=4000)
        one.vectors = {name: np.zeros(4000, "<u4") for name in one.names}
        one.keys(one.names)
        one.shares(one.names)
        masked = one.mask("s00")
        seen.append(masked)
        share = np.unpackbits(masked.view(np.uint8)).mean()
        assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(32 * 4000)
    assert (seen[0] != seen[1]).all()


def test_the_total_is_masked_until_the_last_reveal() -> None:
    one = Sum(3, 3, length=1000)
    one.until_masked()
    one.attest(one.names)
    for name in one.names[:2]:
        reveal = one.members[name].reveal(one.collector.attested)
        one.collector.accept_reveal(name, reveal)
    assert (one.collector.total != one.expected(one.names)).mean() > 0.99


# --- a coordinator that wants more ---------------------------------------------------------------


def test_a_site_answers_a_repeated_question_the_same() -> None:
    one = Sum(3, 2)
    one.until_masked(["s00", "s01"])
    member = one.members["s00"]
    assert member.deal(one.collector.offers) == member.deal(one.collector.offers)
    assert (one.mask("s00") == one.mask("s00")).all()
    assert member.attest(["s00", "s01"]) == member.attest(["s01", "s00"])
    one.attest(["s00", "s01"])
    assert member.reveal(one.collector.attested) == member.reveal(one.collector.attested)


def test_it_does_not_deal_to_other_members() -> None:
    one = Sum(4, 3)
    one.keys(one.names)
    one.members["s00"].deal(one.collector.offers)
    fewer = {name: one.collector.offers[name] for name in one.names[:3]}
    with pytest.raises(SumRefused, match="asked again with other members"):
        one.members["s00"].deal(fewer)


def test_it_does_not_mask_for_other_dealers() -> None:
    """Two vectors under different masks would differ by the masks of a pair."""
    one = Sum(4, 3)
    one.keys(one.names)
    one.shares(one.names)
    dealt = one.collector.dealt_to("s00")
    one.members["s00"].mask(dealt, one.vectors["s00"])
    fewer = {name: dealt[name] for name in ("s01", "s02")}
    with pytest.raises(SumRefused, match="asked again with other dealers"):
        one.members["s00"].mask(fewer, one.vectors["s00"])


def test_it_signs_one_list_of_survivors() -> None:
    """With two lists, s03's seed and its mask key could both be had."""
    one = Sum(4, 3)
    one.until_masked()
    one.members["s00"].attest(one.names)
    with pytest.raises(SumRefused, match="asked again with other survivors"):
        one.members["s00"].attest(one.names[:3])


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["s00", "s01"], "2 survivors, and 3 are needed"),
        (["s01", "s02", "s03"], "leave this site out"),
        (["s00", "s01", "s09"], "not the dealers"),
        (["s00", "s01", "s01"], "named twice"),
    ],
)
def test_it_signs_no_list_that_would_show_too_much(names: list[str], reason: str) -> None:
    one = Sum(4, 3)
    one.until_masked()
    with pytest.raises(SumRefused, match=reason):
        one.members["s00"].attest(names)


def test_it_reveals_nothing_without_enough_signatures() -> None:
    one = Sum(4, 3)
    one.until_masked()
    one.attest(one.names)
    two = {name: one.collector.attested[name] for name in ("s00", "s01")}
    with pytest.raises(SumRefused, match="2 signatures of survivors, and 3 are needed"):
        one.members["s00"].reveal(two)


def test_it_reveals_nothing_for_signatures_over_different_lists() -> None:
    """The equivocation that the consistency check is for."""
    one = Sum(5, 4)
    one.until_masked()
    lists = {"s00": one.names[:4], "s01": one.names[:4], "s02": one.names, "s03": one.names}
    attested = {name: one.members[name].attest(names) for name, names in lists.items()}
    for name in ("s00", "s02"):
        with pytest.raises(SumRefused, match="signed different lists"):
            one.members[name].reveal(attested)


def test_it_takes_nobody_s_signature_for_another_s() -> None:
    one = Sum(3, 2)
    one.until_masked()
    one.attest(one.names)
    attested = dict(one.collector.attested)
    attested["s01"] = attested["s02"]
    with pytest.raises(VerificationFailed):
        one.members["s00"].reveal(attested)
    outsider = {**one.collector.attested, "s09": attested["s00"]}
    with pytest.raises(SumRefused, match="no survivor"):
        one.members["s00"].reveal(outsider)


def test_keys_that_the_coordinator_made_up_are_refused() -> None:
    one = Sum(3, 2)
    one.keys(one.names)
    forged = Member(one.session, "s01", SigningKey.generate("s01"), one.peers, 2)
    with pytest.raises(VerificationFailed):
        one.members["s00"].deal({**one.collector.offers, "s01": forged.keys})
    stranger = Member(one.session, "s09", SigningKey.generate("s09"), one.peers, 2)
    with pytest.raises(SumRefused, match="no site of the plan"):
        one.members["s00"].deal({**one.collector.offers, "s09": stranger.keys})
    with pytest.raises(SumRefused, match="do not include this site as it is"):
        one.members["s00"].deal({**one.collector.offers, "s00": one.member("s00").keys})
    without = {name: one.collector.offers[name] for name in ("s01", "s02")}
    with pytest.raises(SumRefused, match="do not include this site"):
        one.members["s00"].deal(without)


def test_keys_of_another_sum_are_refused() -> None:
    """A site's keys of an earlier session, whose secrets may be out by now."""
    one = Sum(3, 2)
    old = one.member("s01", session_of()).keys
    offers = {**{name: one.members[name].keys for name in one.names}, "s01": old}
    with pytest.raises(SumRefused, match="another site or sum"):
        one.members["s00"].deal(offers)


def test_one_site_under_two_names_is_refused() -> None:
    one = Sum(3, 2)
    body = {**one.members["s01"].keys.body, "site": "s02"}
    twin = sign_statement(body, one.identities["s02"])
    offers = {name: one.members[name].keys for name in ("s00", "s01")}
    with pytest.raises(SumRefused, match="two members have the same key"):
        one.members["s00"].deal({**offers, "s02": twin})


def test_too_few_members_or_dealers_are_refused() -> None:
    one = Sum(4, 3)
    offers = {name: one.members[name].keys for name in ("s00", "s01")}
    with pytest.raises(SumRefused, match="2 members, and 3 are needed"):
        one.members["s00"].deal(offers)
    one.keys(one.names)
    one.shares(one.names)
    one_box = {"s01": one.collector.dealt_to("s00")["s01"]}
    with pytest.raises(SumRefused, match="2 dealers, and 3 are needed"):
        one.members["s00"].mask(one_box, one.vectors["s00"])
    strange = {**one.collector.dealt_to("s00"), "s09": one_box["s01"]}
    with pytest.raises(SumRefused, match="not the members"):
        one.members["s00"].mask(strange, one.vectors["s00"])


def test_boxes_cannot_be_changed_or_swapped() -> None:
    one = Sum(3, 2)
    one.keys(one.names)
    one.shares(one.names)
    dealt = one.collector.dealt_to("s00")
    box = dealt["s01"].box
    changed = ("B" if box[0] == "A" else "A") + box[1:]
    for bad in (changed, dealt["s02"].box, one.collector.dealt_to("s02")["s01"].box):
        forged = dealt["s01"].model_copy(update={"box": bad})
        with pytest.raises(SumRefused, match="shares of s01 were not sealed to this site"):
            one.members["s00"].mask({**dealt, "s01": forged}, one.vectors["s00"])
    for name in ("seed_commitment", "key_commitment"):
        forged = dealt["s01"].model_copy(update={name: "0" * 64})
        with pytest.raises(SumRefused, match="not those that it committed to"):
            one.members["s00"].mask({**dealt, "s01": forged}, one.vectors["s00"])
    assert one.mask("s00").shape == (5,), "an honest question is still answered"


@pytest.mark.parametrize("step", ["mask", "attest", "reveal"])
def test_no_step_is_skipped(step: str) -> None:
    one = Sum(2, 2)
    member = one.members["s00"]
    calls: dict[str, Callable[[], object]] = {
        "mask": lambda: member.mask({}, one.vectors["s00"]),
        "attest": lambda: member.attest(one.names),
        "reveal": lambda: member.reveal({}),
    }
    with pytest.raises(SumRefused, match="yet"):
        calls[step]()


# --- sites that send what they should not --------------------------------------------------------


def test_another_s_or_an_old_message_is_refused_and_the_sum_goes_on() -> None:
    one = Sum(4, 3)
    collector = one.collector
    with pytest.raises(VerificationFailed):
        collector.accept_keys("s00", one.members["s01"].keys)
    with pytest.raises(MalformedInput, match="another sum"):
        collector.accept_keys("s00", one.member("s00", session_of()).keys)
    with pytest.raises(MalformedInput, match="no site of this sum"):
        collector.accept_keys("s09", one.members["s00"].keys)
    one.keys(one.names)
    with pytest.raises(MalformedInput, match="too late"):
        collector.accept_keys("s00", one.members["s00"].keys)
    body = one.members["s00"].deal(collector.offers).body
    body["boxes"].pop("s01")
    with pytest.raises(MalformedInput, match="not for exactly these members"):
        collector.accept_shares("s00", sign_statement(body, one.identities["s00"]))
    one.shares(one.names)
    for bad in (np.zeros(5, "<u8"), np.zeros(4, "<u4"), np.zeros((5, 1), "<u4")):
        with pytest.raises(MalformedInput, match="expected 5 masked uint32"):
            collector.accept_masked("s00", bad)
    one.send(one.names[:3])
    with pytest.raises(MalformedInput, match="too late"):
        collector.accept_masked("s03", one.mask("s03"))
    other = sign_statement(
        {**one.members["s00"].attest(one.names[:3]).body, "survivors": one.names},
        one.identities["s00"],
    )
    with pytest.raises(MalformedInput, match="another list of survivors"):
        collector.accept_attestation("s00", other)
    one.attest(one.names[:3])
    body = one.members["s00"].reveal(collector.attested).body
    fewer = {**body, "keys": {}}
    with pytest.raises(MalformedInput, match="other shares than it was asked for"):
        collector.accept_reveal("s00", sign_statement(fewer, one.identities["s00"]))
    one.reveal(one.names[:3])
    assert (collector.unmask() == one.expected(one.names[:3])).all()


def test_a_vector_counts_once() -> None:
    one = Sum(3, 2)
    one.keys(one.names)
    one.shares(one.names)
    one.collector.accept_masked("s00", one.mask("s00"))
    with pytest.raises(MalformedInput, match="sent its vector already"):
        one.collector.accept_masked("s00", one.mask("s00"))


def test_a_share_that_was_not_dealt_is_found_and_the_others_suffice() -> None:
    one = Sum(4, 3)
    one.until_masked()
    one.attest(one.names)
    body = one.members["s00"].reveal(one.collector.attested).body
    body["seeds"]["s01"] = body["seeds"]["s02"]
    with pytest.raises(MalformedInput, match="share of s01 is not the one that was dealt"):
        one.collector.accept_reveal("s00", sign_statement(body, one.identities["s00"]))
    one.reveal(one.names[1:])
    assert (one.collector.unmask() == one.expected(one.names)).all()


def test_shares_of_something_else_cost_the_sum_and_name_the_dealer() -> None:
    """s01 deals shares of a seed that is not its own; commitments to the shares agree."""
    one = Sum(3, 3)
    cheat = one.members["s01"]
    honest = cheat._seed
    one.keys(one.names)
    cheat._seed = bytes(32)
    one.shares(one.names)
    cheat._seed = honest
    one.send(one.names)
    one.attest(one.names)
    one.reveal(one.names)
    with pytest.raises(VerificationFailed, match="the seed that s01 shared is not its own"):
        one.collector.unmask()


def test_a_mask_key_that_is_not_its_own_is_found_too() -> None:
    one = Sum(4, 3)
    cheat, real = one.members["s03"], one.members["s03"]._mask_key
    one.keys(one.names)
    cheat._mask_key = one.member("s03")._mask_key
    one.shares(one.names)
    cheat._mask_key = real
    one.send(one.names[:3])
    one.attest(one.names[:3])
    one.reveal(one.names[:3])
    with pytest.raises(VerificationFailed, match="the mask key that s03 shared is not its own"):
        one.collector.unmask()


@pytest.mark.parametrize(
    ("sites", "quorum", "colluding"), [(2, 2, 0), (3, 2, 0), (4, 3, 1), (5, 4, 2), (10, 9, 7)]
)
def test_how_many_may_collude(sites: int, quorum: int, colluding: int) -> None:
    assert tolerated_collusion(sites, quorum) == colluding
    # One more, and two lists of survivors could each have enough signatures, or one be alone.
    more = colluding + 1
    assert 2 * quorum <= sites + more or quorum - more < 2


def test_errors_are_the_product_s() -> None:
    assert issubclass(SumRefused, FiduciaryError)
    assert SumRefused.code == "secure-sum-refused"


def test_keys_that_another_made_up_are_not_repeated() -> None:
    """What a site says of a message reaches the log with its refusal."""
    digest = f"sha256:{'1' * 64}"
    survivors = {"session": digest, "members": digest, "dealers": [], "survivors": []}
    read_document(survivors, Survivors)
    with pytest.raises(MalformedInput, match=r"malformed secure sum: \?: unknown field"):
        read_document({**survivors, "Jane Doe": 1}, Survivors)


def test_what_a_site_signs_of_another_or_of_other_members_is_refused() -> None:
    """Its signature is its own; what it says is not."""
    one = Sum(4, 3)
    collector, signer = one.collector, one.identities["s00"]
    named: dict[str, object] = {"site": "s01"}
    with pytest.raises(MalformedInput, match="another site's"):
        collector.accept_keys(
            "s00", sign_statement({**one.members["s00"].keys.body, **named}, signer)
        )
    one.keys(one.names)
    body = one.members["s00"].deal(collector.offers).body
    for wrong in (named, {"members": "sha256:" + "f" * 64}):
        with pytest.raises(MalformedInput, match="not for exactly these members"):
            collector.accept_shares("s00", sign_statement({**body, **wrong}, signer))
    one.shares(one.names[:3])
    with pytest.raises(MalformedInput, match="it is no dealer"):
        collector.accept_masked("s03", one.vectors["s03"])
    one.send(one.names[:3])
    list_of_others = one.members["s00"].attest(collector.survivors).body
    with pytest.raises(MalformedInput, match="another list of survivors"):
        collector.accept_attestation("s03", sign_statement(list_of_others, one.identities["s03"]))
    one.attest(one.names[:3])
    body = one.members["s00"].reveal(collector.attested).body
    nothing: dict[str, object] = {"seeds": {}}
    for lie in (named, nothing):
        with pytest.raises(MalformedInput, match="other shares than"):
            collector.accept_reveal("s00", sign_statement({**body, **lie}, signer))
    one.reveal(one.names[:3])
    assert (collector.unmask() == one.expected(one.names[:3])).all()
