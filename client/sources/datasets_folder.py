"""Folders of Hugging Face `datasets`: what `save_to_disk` writes, and folders of Parquet files.

* `save_to_disk` writes Arrow streams that `state.json` lists in order, and of several splits one
  folder each, listed by `dataset_dict.json`. All splits are read, one after the other: whom to hold
  out is decided by subject, by the site (`client.learning.data`).
* A repository's Parquet files are read in the order of their paths.
* Batches come from disk one by one. Nothing but Arrow and JSON is read: no script of a dataset is
  ever run, and `datasets` need not be installed.
* A `ClassLabel` is read as the name that the features declare, not as its number.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from audit.errors import NotFound
from client.tables import MalformedTable, Row, positions_of, row_of

MAX_JSON_BYTES = 16 * 1024 * 1024
"""Of `state.json` and the like; features of thousands of classes take a fraction of it."""


class DatasetsFolder:
    """One folder.

    Args:
        path: The folder.
    """

    usual_columns: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._path.name

    @property
    def folder(self) -> Path:
        """Pictures that rows name by path are looked for here."""
        return self._path

    def rows(self, columns: Sequence[str], lists: Collection[str] = ()) -> Iterator[Row]:
        """Every row of every split; see `client.sources.source.Source.rows`."""
        import pyarrow as arrow

        number = 0
        try:
            for file in self._files():
                with closing(_Batches(file)) as batches:
                    positions_of(file.name, batches.schema.names, columns)
                    names = _class_names(batches.schema.metadata)
                    for batch in batches.read(list(dict.fromkeys(columns))):
                        for record in batch.to_pylist():
                            number += 1
                            named = {key: _named(names, key, of) for key, of in record.items()}
                            yield row_of(self.name, f"row {number}", named, columns, lists)
        except (arrow.ArrowException, OSError) as error:
            raise MalformedTable(
                f"{self.name} is no readable folder of `datasets`",
                fix="save it again with `save_to_disk`, or as Parquet",
            ) from error
        if number == 0:
            raise MalformedTable(f"{self.name} has no rows", fix="add rows")

    def _files(self) -> list[Path]:
        splits = self._json(self._path / "dataset_dict.json").get("splits")
        folders = [self._path]
        if isinstance(splits, list):
            folders = [self._inside(self._path, split) for split in splits]
        files: list[Path] = []
        for folder in folders:
            state = self._json(folder / "state.json")
            if state.get("_indices_data_files") or state.get("_indices_files"):
                raise MalformedTable(
                    f"{self.name} holds a selection of rows beside its data",
                    fix="call `flatten_indices()` before `save_to_disk`",
                )
            listed = state.get("_data_files")
            for item in listed if isinstance(listed, list) else []:
                if not isinstance(item, dict):
                    raise MalformedTable(
                        f"{self.name}: state.json lists no files", fix="save again"
                    )
                files.append(self._inside(folder, item.get("filename")))
        files = files or sorted(self._path.rglob("*.parquet"))
        if not files:
            raise NotFound(
                f"{self.name} holds no data of `datasets`: neither state.json nor Parquet files",
                fix="name a folder that `save_to_disk` wrote, or one of Parquet files",
            )
        return files

    def _inside(self, folder: Path, name: object) -> Path:
        """A file or folder that a list names: it must lie in the folder."""
        path = (folder / str(name)).resolve()
        if not isinstance(name, str) or not path.is_relative_to(self._path.resolve()):
            raise MalformedTable(f"{self.name} lists a file outside of it", fix="save it again")
        return path

    def _json(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            return {}
        try:
            with path.open("rb") as file:
                found = json.loads(file.read(MAX_JSON_BYTES))
        except (ValueError, RecursionError) as error:
            raise MalformedTable(
                f"{self.name}: {path.name} is no JSON", fix="save again"
            ) from error
        if not isinstance(found, dict):
            raise MalformedTable(f"{self.name}: {path.name} is no JSON object", fix="save it again")
        return found


class _Batches:
    """The record batches of an Arrow stream, an Arrow file or a Parquet file."""

    def __init__(self, path: Path) -> None:
        import pyarrow as arrow
        from pyarrow import ipc, parquet

        self._parquet = path.suffix == ".parquet"
        self._file = arrow.OSFile(str(path))
        if self._parquet:
            self._reader = parquet.ParquetFile(self._file)
            self.schema = self._reader.schema_arrow
        else:
            self._reader = ipc.open_stream(self._file)
            self.schema = self._reader.schema

    def read(self, columns: list[str]) -> Iterator[Any]:
        """The wanted columns, batch by batch."""
        if self._parquet:
            yield from self._reader.iter_batches(columns=columns)
        else:
            for batch in self._reader:
                yield batch.select(columns)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of each `ClassLabel`, which `datasets` keeps in the schema's metadata."""
    try:
        info = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        features = info.get("info", {}).get("features", {})
        return {
            column: list(map(str, feature["names"]))
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {}  # a column without names is read as what it holds


def _named(names: Mapping[str, list[str]], column: str, value: object) -> object:
    known = names.get(column, [])
    if isinstance(value, int) and 0 <= value < len(known):
        return known[value]
    return None if column in names and value == -1 else value
