"""Both forms of a message's content, and what is neither."""

from __future__ import annotations

import numpy as np
import pytest

from audit.errors import MalformedInput
from client.fleet_content import INLINE_BYTES, content_with, read_content

# isort: split
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.app.message import Array
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

FIELDS: dict[str, str | int] = {"plan_id": "plan", "round": 3}


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES, INLINE_BYTES + 1])
def test_what_is_written_is_read(size: int) -> None:
    document = b"x" * size
    assert read_content("task", content_with("task", FIELDS, document)) == (FIELDS, document)


def test_a_short_document_costs_two_objects_less_the_message() -> None:
    assert len(get_all_nested_objects(content_with("task", FIELDS, b"short"))) == 2


def test_a_record_without_a_document_has_an_empty_one() -> None:
    bare = content_with("task", {"round": 1}, b"")
    assert set(bare) == {"task"}
    assert read_content("task", bare) == ({"round": 1}, b"")


def _array(name: str = "safetensors", form: str = "safetensors") -> ArrayRecord:
    return ArrayRecord({name: Array(dtype="uint8", shape=(3,), stype=form, data=b"abc")})


def _of_numpy() -> ArrayRecord:
    return ArrayRecord({"safetensors": Array(np.zeros(3, np.uint8))})


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"other": ConfigRecord({"safetensors": b"x"})},
        {"task": ConfigRecord({"safetensors": "text"})},
        {"task": ConfigRecord({"safetensors": b"x"}), "arrays": _array()},
        {"task": ConfigRecord({"safetensors": b"x"}), "more": ConfigRecord({})},
        {"task": ConfigRecord({}), "arrays": _array(), "more": ConfigRecord({})},
        {"task": ConfigRecord({}), "arrays": _of_numpy()},
        {"task": ConfigRecord({}), "arrays": _array(form="numpy.ndarray")},
        {"task": ConfigRecord({}), "arrays": _array(name="weights")},
    ],
)
def test_anything_else_is_malformed(records: dict[str, object]) -> None:
    with pytest.raises(MalformedInput):
        read_content("task", RecordDict(records))
