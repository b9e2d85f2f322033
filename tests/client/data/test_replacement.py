"""Stand-ins are written in place of findings, and spans of the text follow them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from client.deidentification.findings import Finding
from client.deidentification.pipeline import Deidentified, Deidentifier, SourceRecord
from client.deidentification.replacement import from_original, moved, replace_findings

Case = tuple[str, list[Finding], dict[Finding, str]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A text, disjoint findings in it, and what replaces each."""
    text = draw(st.text("abc é𝄞\n", min_size=1, max_size=40))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    findings = [
        Finding(a, b, "PERSON") for a, b in list(pairwise(cuts))[:: draw(st.integers(1, 2))]
    ]
    stand_ins = {finding: draw(st.text("XYZ", min_size=1, max_size=6)) for finding in findings}
    return text, findings, stand_ins


@given(cases(), st.data())
def test_an_untouched_span_reads_the_same_and_a_touched_one_covers_its_stand_ins(
    case: Case, data: st.DataObject
) -> None:
    text, findings, stand_ins = case
    new, replacements = replace_findings(text, findings, stand_ins.__getitem__)
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    new_start, new_end = moved(start, end, replacements)
    touched = [finding for finding in findings if finding.start < end and start < finding.end]
    first, last = start, end
    if touched:
        first, last = min(start, touched[0].start), max(end, touched[-1].end)
    expected, done = "", first
    for finding in touched:
        expected += text[done : finding.start] + stand_ins[finding]
        done = finding.end
    assert new[new_start:new_end] == expected + text[done:last]


@given(cases(), st.data())
def test_disjoint_spans_stay_in_order_and_share_at_most_a_stand_in(
    case: Case, data: st.DataObject
) -> None:
    text, findings, stand_ins = case
    _, replacements = replace_findings(text, findings, stand_ins.__getitem__)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=6)))
    after = [moved(a, b, replacements) for a, b in pairwise(cuts)]
    for (_, cut), earlier, later in zip(list(pairwise(cuts)), after, after[1:], strict=False):
        inside = any(finding.start < cut < finding.end for finding in findings)
        assert inside or earlier[1] <= later[0]
        assert earlier[0] <= later[0]
        assert earlier[1] <= later[1]


@given(cases())
def test_what_is_not_a_stand_in_is_the_original(case: Case) -> None:
    text, findings, stand_ins = case
    new, replacements = replace_findings(text, findings, stand_ins.__getitem__)
    kept = "".join(new[start:end] for start, end in from_original(len(new), replacements))
    removed = [range(finding.start, finding.end) for finding in findings]
    assert kept == "".join(c for at, c in enumerate(text) if not any(at in one for one in removed))
    for replacement, finding in zip(replacements, findings, strict=True):
        assert new[replacement.new_start : replacement.new_end] == stand_ins[finding]


def test_the_pipeline_says_where_its_stand_ins_are(deidentifier: Deidentifier) -> None:
    text = "Maria Lopez (07700 900123) has a rash, Maria says. Write to m.lopez@mail.example."
    (outcome,) = deidentifier.deidentify([SourceRecord("P-1", text)])
    assert isinstance(outcome, Deidentified)
    assert sum(outcome.replaced.values()) == len(outcome.replacements) >= 4
    for words in ("has a rash", "says. Write to"):
        start = text.index(words)
        new_start, new_end = outcome.moved(start, start + len(words))
        assert outcome.text[new_start:new_end] == words
    start, end = outcome.moved(0, len("Maria"))
    assert outcome.text[start:end] == outcome.text[: outcome.text.index(" (")]
    assert outcome.moved(0, len(text)) == (0, len(outcome.text))
