"""Hugging Face data sets on disk, as `save_to_disk` writes them, read without the datasets library."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigcl.data.arrow import arrow_module, check_columns, row_example, table_metadata
from bigcl.data.records import File, NamedFiles, extent, fingerprint, is_remote
from bigcl.data.sources import BadRecord, Example
from bigcl.data.storage import StorageError

_FILE_MAGIC = b"ARROW1"


class HuggingFace:
    """The rows of a data set, mapped into memory.

    path: the folder that was given to `save_to_disk`.
    split: of a `DatasetDict`; None for a single data set.
    columns: what is read; None for all.
    files, root: columns that name files, whose contents become fields; see `NamedFiles`. The features Image and Audio
        need no entry here: they become bytes.
    """

    def __init__(
        self,
        path: str,
        split: str | None = None,
        columns: Sequence[str] | None = None,
        files: Mapping[str, str] = {},
        root: str | None = None,
    ):
        self.name, self.named = f"huggingface {path}" + (f" {split}" if split else ""), NamedFiles(files, root)
        self.files = [File.of(str(file)) for file in data_files(pathlib.Path(path).expanduser(), split)]
        self.columns = None if columns is None else [*dict.fromkeys([*columns, *files.values()])]
        self.remote = is_remote(self.files, self.named)
        self.identity = [fingerprint(self.files), list(columns or ())]
        self.extent = [extent((f.path, f.size) for f in self.files), list(columns or ())]
        self.open()

    def open(self) -> None:
        """Maps the files. `firsts` (int64 [files + 1]) is the global index of each file's first row."""
        self.tables = [open_table(file.path) for file in self.files]
        if self.columns is not None:
            for file, table in zip(self.files, self.tables, strict=True):
                check_columns(self.columns, table.column_names, file.path)
            self.tables = [table.select(self.columns) for table in self.tables]
        self.firsts = np.cumsum([0, *(table.num_rows for table in self.tables)])

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "tables"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.open()

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def locate(self, index: int) -> tuple[int, int]:
        """Which file an example is in, and which row of it."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: index {index} of {len(self)} examples")
        number = int(np.searchsorted(self.firsts, index, "right")) - 1
        return number, index - int(self.firsts[number])

    def place(self, index: int) -> tuple[str, None]:
        """The file of an example."""
        return self.files[self.locate(index)[0]].path, None

    def __getitem__(self, index: int) -> Example:
        number, row = self.locate(index)
        path = self.files[number].path
        try:
            return row_example(self.tables[number], row, self.named, path)
        except StorageError:
            raise
        except (OSError, ValueError) as error:
            raise BadRecord(self.name, str(index), path, None, f"row {row}: {error}") from error

    def metadata(self, names: Sequence[str], start: int, stop: int) -> Mapping[str, Sequence[Any]]:
        """Columns of rows start to stop - 1; no other column is touched."""
        table = arrow_module().concat_tables(self.tables).slice(start, stop - start)
        check_columns([name.partition(".")[0] for name in names], table.column_names, self.name)
        return table_metadata(table, names)


def data_files(folder: pathlib.Path, split: str | None) -> list[pathlib.Path]:
    """The Arrow files of a data set, in order.

    Raises:
        FileNotFoundError: there is none; the message says what is there.
        ValueError: it has splits and none is named, or it is broken.
    """
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        names = read_json(splits, "splits")
        if split not in names:
            raise ValueError(f"{folder}: choose a split: {', '.join(names)}" + (f", not {split!r}" if split else ""))
        folder = folder / str(split)
    elif split is not None:
        raise ValueError(f"{folder}: has no splits; leave out {split!r}")
    state = folder / "state.json"
    if not state.is_file():
        raise FileNotFoundError(
            f"{folder}: no state.json here; `dataset.save_to_disk` of the datasets library writes it"
        )
    files = [folder / pathlib.Path(entry["filename"]).name for entry in read_json(state, "_data_files")]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: missing, but listed in {state}")
    return files


def read_json(path: pathlib.Path, key: str) -> Any:
    """One entry of a JSON file. Raises ValueError that names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not as `save_to_disk` writes it ({error!r})") from error


def open_table(path: str) -> Any:
    """An Arrow file of either format, mapped into memory. Raises ValueError, naming the file, if it is broken."""
    arrow = arrow_module()
    ipc = arrow_module("pyarrow.ipc")
    try:
        mapped = arrow.memory_map(path)
        whole = mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        mapped.seek(0)
        return (ipc.open_file if whole else ipc.open_stream)(mapped).read_all()
    except (OSError, arrow.ArrowInvalid) as error:
        raise ValueError(f"{path}: not a whole Arrow file: {error}") from error
