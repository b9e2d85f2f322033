"""Each kind of content: from a file that an operator adds, through the vault to a task."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from audit.errors import ExitCode
from client.example_split import read_split
from client.learning.data import Example
from client.site import Site
from client.vault import Content, Datasheet, Record, Vault
from compliance.statements import TrainingPlan
from tests.client.data.records import journalled
from tests.client.site.documents import TASKS, make_plan


def kept(site: Site) -> tuple[list[Record], Datasheet]:
    with Vault.open(site.paths, site.keyring) as vault:
        records = sorted(vault.examples("default"), key=lambda record: record.text)
        return records, vault.dataset("default").datasheet


def learned(site: Site, plan: TrainingPlan) -> list[Example]:
    """What a plan's task makes of the dataset, in the order of their texts."""
    with Vault.open(site.paths, site.keyring) as vault:
        split = read_split(vault, plan, ("default",))
    return sorted((*split.training, *split.held_out), key=lambda example: example.text)


def plan_of(content: Content, **changes: Any) -> TrainingPlan:
    return make_plan(**{**TASKS[content], **changes})


def lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_texts_with_a_group(typed: Any, tmp_path: Path, site: Site) -> None:
    path = tmp_path / "notes.csv"
    path.write_text(
        "who,what,kind,ward\nP-1,an ache,urgent, ICU \nP-2,a form,routine,\nP-3,a rash,urgent,B\n"
    )
    columns = ("--subject", "who", "--text", "what", "--label", "kind", "--group", "ward")
    code, out, err = typed("add", str(path), *columns, "--json")
    assert code == ExitCode.OK, err
    assert json.loads(out)["groups"] == {"ICU": 1, "B": 1}
    assert json.loads(out)["content"] == "text"
    assert "ICU (1)" in typed("show", "default")[1]
    examples = learned(site, plan_of("text", groups=["ICU"]))
    assert [(e.text, e.label, e.group) for e in examples] == [
        ("a form", 1, ""),
        ("a rash", 0, ""),  # a group that the plan does not declare
        ("an ache", 0, "ICU"),
    ]
    assert {example.group for example in learned(site, plan_of("text"))} == {""}


SPANS_TEXT = "  Maria Lopez (07700 900123) has a rash and an ache since May.\n"


def found(text: str, words: str, label: str) -> dict[str, Any]:
    start = text.index(words)
    return {"start": start, "end": start + len(words), "label": label}


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_spans_follow_the_text(typed: Any, tmp_path: Path, site: Site, form: str) -> None:
    spans = [
        found(SPANS_TEXT, "a rash", "SIGN"),
        found(SPANS_TEXT, "Maria", "PERSON"),
        found(SPANS_TEXT, "an ache", "SIGN"),
    ]
    path = tmp_path / f"notes.{form}"
    if form == "jsonl":
        lines(path, {"who": "P-1", "text": SPANS_TEXT, "spans": spans})
    else:
        quoted = json.dumps(spans).replace('"', '""')
        path.write_text(f'who,text,spans\nP-1,"{SPANS_TEXT}","{quoted}"\n')
    code, out, err = typed(
        "add", str(path), "--kind", "spans", "--subject", "who", "--text", "text",
        "--spans", "spans",
    )  # fmt: skip
    assert code == ExitCode.OK, err
    assert "1 record of 1 subject, 3 spans of 2 labels" in out
    (record,), sheet = kept(site)
    assert "Maria" not in record.text
    assert "07700" not in record.text
    assert record.text.startswith("  "), "offsets count white space too"
    read = [(record.text[start:end], label) for start, end, label in json.loads(record.label)]
    assert read[1:] == [("a rash", "SIGN"), ("an ache", "SIGN")]
    name, label = read[0]
    assert (label, record.text.strip().startswith(f"{name} (")) == ("PERSON", True)
    assert (sheet.content, sheet.label_counts) == ("spans", {"SIGN": 2, "PERSON": 1})
    (example,) = learned(site, plan_of("spans", labels=["O", "PERSON", "SIGN"]))
    assert [(example.text[span.start : span.end], span.label) for span in example.spans] == [
        (name, 1),
        ("a rash", 2),
        ("an ache", 2),
    ]


def test_spans_that_share_a_stand_in_keep_their_row_out(
    typed: Any, tmp_path: Path, site: Site
) -> None:
    text = "My name is Maria Lopez."
    spans = [found(text, "Maria", "GIVEN"), found(text, "Lopez", "FAMILY")]
    path = lines(
        tmp_path / "notes.jsonl",
        {"who": "P-1", "text": text, "spans": spans},
        {"who": "P-2", "text": "Nothing to see here.", "spans": []},
    )
    columns = ("--kind", "spans", "--subject", "who", "--text", "text", "--spans", "spans")
    code, out, err = typed("add", path, *columns)
    assert code == ExitCode.OK, err
    assert "1 row kept out: spans-in-one-identifier" in out
    records, sheet = kept(site)
    assert [record.label for record in records] == ["[]"]
    assert sheet.replacements == {}, "only what is stored counts"


def test_language_has_no_label(typed: Any, tmp_path: Path, site: Site) -> None:
    path = lines(tmp_path / "a.jsonl", {"who": "P-1", "what": "My name is Maria Lopez, hello."})
    columns = ("--subject", "who", "--text", "what")
    code, out, err = typed("add", path, "--kind", "language", *columns)
    assert code == ExitCode.OK, err
    assert "1 record of 1 subject\n" in out
    (record,), sheet = kept(site)
    assert (record.label, sheet.label_counts, sheet.content) == ("", {}, "language")
    assert "Lopez" not in record.text
    assert "texts without labels" in typed("show", "default")[1]
    (example,) = learned(site, plan_of("language"))
    assert example.text == record.text


def test_rows_of_a_table(typed: Any, tmp_path: Path, site: Site) -> None:
    rows = "".join(
        f"P-{n},{40 + n},{'m' if n % 2 else 'f'},C50.9,urgent,Lopez\n" for n in range(12)
    )
    path = tmp_path / "hearts.csv"
    path.write_text(
        f"who,age,sex,code,class,name\n{rows}P-90,61,f,C50.9,routine,Kim\nP-91,2001-03-04,f,,urgent,X\n"
        "P-92,62,Maria Lopez,,urgent,X\n"
    )
    code, out, err = typed(
        "add", str(path), "--kind", "table", "--subject", "who", "--features", "age",
        "--categories", "sex,code", "--label", "class", "--known", "name", "--group", "sex",
    )  # fmt: skip
    assert code == ExitCode.OK, err
    assert "1 row kept out: identifier-in-cell age" in out
    assert "1 row kept out: identifier-in-cell sex" in out
    assert "rows with an identifier in a cell were kept out" in out
    records, sheet = kept(site)
    assert len(records) == 13
    assert records[0].text == '{"age":"40","code":"C50.9","sex":"f"}'
    assert (records[0].label, records[0].group) == ("urgent", "f")
    assert (sheet.content, sheet.deidentification) == ("table", "rows-kept-out")
    assert sheet.label_counts == {"urgent": 12, "routine": 1}
    examples = learned(site, plan_of("table", groups=["m", "f"]))
    assert [json.loads(example.text)["age"] for example in examples[:2]] == ["40", "41"]
    assert [example.group for example in examples[:2]] == ["f", "m"]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A CSV with two pictures, the first with a name in its metadata."""
    folder = tmp_path / "scans"
    (folder / "files").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x010E] = "SecretName"
    Image.new("RGB", (20, 10), "red").save(folder / "files" / "a.jpg", exif=exif)
    Image.new("L", (8, 8), 7).save(folder / "files" / "b.png")
    (folder / "scans.csv").write_text(
        "who,file,finding\nP-1,files/a.jpg,urgent\nP-2,files/b.png,routine\n"
    )
    return folder / "scans.csv"


IMAGE = ("--kind", "image", "--subject", "who", "--image", "file", "--label", "finding")
ACCEPT = "--accept-unsearched-pixels"


def test_pictures(typed: Any, scans: Path, site: Site) -> None:
    code, out, err = typed("add", str(scans), *IMAGE, ACCEPT)
    assert code == ExitCode.OK, err
    assert "pixels were NOT searched" in out
    records, sheet = kept(site)
    assert (sheet.content, sheet.deidentification) == ("image", "pixels-not-searched")
    assert "NOT searched" in typed("show", "default")[1]
    pictures = [base64.b64decode(record.text, validate=True) for record in records]
    (png,) = (data for data in pictures if Image.open(io.BytesIO(data)).size == (20, 10))
    assert b"SecretName" in (scans.parent / "files" / "a.jpg").read_bytes()
    assert b"SecretName" not in png
    payload = site.journal.read(site.journal.size() - 1)[1]
    assert (payload["content"], payload["deidentification"]) == ("image", "pixels-not-searched")
    examples = learned(site, plan_of("image"))
    assert sorted(example.label for example in examples) == [0, 1]


def test_pictures_are_stored_only_on_an_explicit_word(typed: Any, scans: Path, site: Site) -> None:
    before = journalled(site)
    code, out, err = typed("add", str(scans), *IMAGE)
    assert (code, out) == (ExitCode.REFUSED, "")
    assert ACCEPT in err
    assert journalled(site) == before
    assert json.loads(typed("list", "--json")[1]) == []


def test_a_picture_that_cannot_be_decoded_leaves_nothing(
    typed: Any, scans: Path, site: Site
) -> None:
    broken = scans.parent / "files" / "b.png"
    broken.write_bytes(broken.read_bytes()[:45])
    code, out, err = typed("add", str(scans), *IMAGE, ACCEPT)
    assert (code, out) == (ExitCode.MALFORMED_INPUT, "")
    assert "cannot be decoded" in err
    assert json.loads(typed("list", "--json")[1]) == []
    scans.write_text("who,file,finding\nP-1,files/a.jpg,urgent\n")
    assert typed("add", str(scans), *IMAGE, ACCEPT)[0] == ExitCode.OK


def test_the_same_picture_twice_for_one_subject_is_refused(
    typed: Any, scans: Path, site: Site
) -> None:
    """Whatever its name is."""
    files = scans.parent / "files"
    (files / "copy.png").write_bytes((files / "b.png").read_bytes())
    scans.write_text("who,file,finding\nP-2,files/b.png,urgent\nP-2,files/copy.png,urgent\n")
    code, _, err = typed("add", str(scans), *IMAGE, ACCEPT)
    assert code == ExitCode.MALFORMED_INPUT
    assert "line 3 repeats" in err


TEXT = ("--subject", "who", "--text", "what", "--label", "kind")
SPANS = ("--kind", "spans", "--subject", "who", "--text", "what", "--spans", "at")
TABLE = ("--kind", "table", "--subject", "who", "--label", "kind")


@pytest.mark.parametrize(
    ("columns", "content", "message"),
    [
        (("--subject", "who", "--text", "what"), "who,what\nP,t\n", "--kind text needs --label"),
        ((*TEXT, "--kind", "language"), "who,what,kind\nP,t,k\n", "language has no --label"),
        ((*TEXT, "--kind", "sound"), "who,what,kind\nP,t,k\n", "unknown kind 'sound'"),
        ((*TEXT, "--image", "what"), "who,what,kind\nP,t,k\n", "--kind text has no --image"),
        (TABLE, "who,kind\nP,k\n", "needs --features or --categories"),
        ((*TABLE, "--features", "who"), "who,kind\nP,k\n", "'who' names the subject or the class"),
        ((*TABLE, "--features", "kind"), "who,kind\nP,k\n", "names the subject or the class"),
        ((*TABLE, "--features", "age"), "who,kind\nP,k\n", "no column 'age'"),
        ((*TABLE, "--features", "age"), "who,kind,age\nP,k, \n", "line 2 has no cells"),
        ((*TABLE, "--features", "x" * 101), "who,kind\nP,k\n", "at most 1000 columns"),
        ((*TEXT, "--group", "ward"), "who,what,kind\nP,t,k\n", "no column 'ward'"),
        (
            (*TEXT, "--group", "ward"),
            "who,what,kind,ward\nP,t,k,a/b\n",
            "column 'ward' does not look like groups",
        ),
        (
            (*TEXT, "--group", "ward"),
            f"who,what,kind,ward\nP,t,k,{'x' * 101}\n",
            "does not look like groups",
        ),
        (
            (*TEXT, "--group", "ward"),
            "who,what,kind,ward\n" + "".join(f"P{n},t,k,ward {n}\n" for n in range(101)),
            "does not look like groups (101 different values)",
        ),
        (SPANS, "who,what,at\nP,t,\n", "line 2 has no spans"),
        (SPANS, "who,what,at\nP,a text,oh\n", "notes.csv, line 2: spans are not JSON"),
        (SPANS, 'who,what,at\nP,t,"[{""start"": 0}]"\n', "line 2, span 1: it has not exactly"),
        (
            SPANS,
            'who,what,at\nP,t,"[{""start"":0,""end"":9,""label"":""L""}]"\n',
            "start and end are none",
        ),
        ((*IMAGE, ACCEPT), "who,file,finding\nP,../x.png,k\n", "line 2: the picture is outside"),
        ((*IMAGE, ACCEPT), "who,file,finding\nP,gone.png,k\n", "the picture cannot be read"),
        ((*IMAGE, ACCEPT), "who,file,finding\nP,notes.csv,k\n", "is neither PNG nor JPEG"),
        ((*IMAGE, ACCEPT), "who,file,finding\nP,,k\n", "line 2 has no image"),
    ],
)  # fmt: skip
def test_what_is_wrong_gets_one_message_and_leaves_nothing(
    typed: Any, tmp_path: Path, site: Site, columns: tuple[str, ...], content: str, message: str
) -> None:
    (tmp_path / "notes.csv").write_text(content)
    before = journalled(site)
    code, out, err = typed("add", str(tmp_path / "notes.csv"), *columns)
    assert code == ExitCode.MALFORMED_INPUT, err
    assert message in " ".join(err.split())
    assert err.count("error:") == 1
    assert "fix:" in err
    assert out == ""
    assert json.loads(typed("list", "--json")[1]) == []
    assert journalled(site) == before
