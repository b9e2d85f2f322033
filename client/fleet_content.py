"""What a Flower message of ours holds: one record of short fields, and one safetensors document.

* A document of at most `INLINE_BYTES` is a field of the record: three objects a message, which
  travel in one call (`client.fleet_frames`).
* A longer one is an array beside the record: six objects or more, since Flower cuts arrays into
  chunks, and no body of a call becomes larger than the listener takes. The array's data is the
  document itself: in numpy's form it would be copied four times on its way.
* Reading takes either form and executes nothing.
"""

from __future__ import annotations

import os

# Flower reads these when it is imported: no telemetry, no update check, no banner.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

from collections.abc import Mapping
from typing import Final

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.app.message import Array

from audit.errors import MalformedInput

INLINE_BYTES: Final = 4 * 1024 * 1024
"""Below Flower's own chunks of 5 MB, so that an object is never larger than theirs."""

DOCUMENT: Final = "safetensors"
"""Name of the document: a field of the record, or the only array beside it."""

ARRAYS: Final = "arrays"
"""Name of the record with a longer document."""


def content_with(name: str, fields: Mapping[str, str | int], document: bytes) -> RecordDict:
    """A message's content.

    Args:
        name: Of the record.
        fields: What it says.
        document: `client.arrays.pack_arrays` of the arrays; empty where there are none.
    """
    if not document:
        return RecordDict({name: ConfigRecord(dict(fields))})
    if len(document) <= INLINE_BYTES:
        return RecordDict({name: ConfigRecord({**fields, DOCUMENT: document})})
    array = Array(dtype="uint8", shape=(len(document),), stype=DOCUMENT, data=document)
    return RecordDict({name: ConfigRecord(dict(fields)), ARRAYS: ArrayRecord({DOCUMENT: array})})


def is_inline(content: RecordDict) -> bool:
    """Whether a message with this content has three objects, so that it may travel whole."""
    return not content.array_records


def read_content(name: str, content: RecordDict) -> tuple[dict[str, object], bytes]:
    """Fields, unchecked, and document, maybe empty, of what `content_with` made.

    Raises:
        MalformedInput: When the content is anything else.
    """
    record = content.config_records.get(name)
    if record is None:
        raise MalformedInput(f"expected a record {name}")
    fields = dict(record)
    inline = fields.pop(DOCUMENT, None)
    if set(content) == {name} and isinstance(inline, bytes | None):
        return fields, inline or b""
    arrays = content.array_records.get(ARRAYS)
    if inline is not None or arrays is None or set(content) != {name, ARRAYS}:
        raise MalformedInput(f"expected a record {name} with its arrays, and nothing else")
    if set(arrays) != {DOCUMENT}:
        raise MalformedInput("expected arrays as one safetensors document")
    array = arrays[DOCUMENT]
    if array.stype != DOCUMENT or not isinstance(array.data, bytes):
        raise MalformedInput("expected arrays as one safetensors document")
    return fields, array.data
