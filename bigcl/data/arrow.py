"""Rows of Arrow tables as examples."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from bigcl.data.records import NamedFiles
from bigcl.data.sources import Example, pick_fields


def arrow_module(name: str = "pyarrow") -> Any:
    """A module of pyarrow. Raises ImportError that names the extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'this source needs pyarrow: pip install "bigcl[parquet]" ({error})') from error


def row_example(table: Any, row: int, named: NamedFiles, beside: str) -> Example:
    """One row of a `pyarrow.Table` as an example.

    Lists of numbers become arrays; {bytes, path}, as Hugging Face keeps pictures and sounds, becomes the bytes, or
    where they are null, those of the file at the path. Raises OSError or ValueError for a file that cannot be read.
    """
    example = {name: plain(column[row], named, beside) for name, column in zip(table.column_names, table, strict=True)}
    return named.add(example, beside)


def plain(scalar: Any, named: NamedFiles, beside: str) -> Any:
    """The value of an Arrow scalar."""
    types = arrow_module().types
    if hasattr(scalar.type, "storage_type"):  # an extension: what it is stored as
        scalar = scalar.value
    if not scalar.is_valid:
        return None
    kind = scalar.type
    if is_file(kind):
        content, path = scalar["bytes"].as_py(), scalar["path"].as_py()
        return content if content is not None or path is None else named.read(path, beside)
    if types.is_struct(kind):
        return {field.name: plain(scalar[field.name], named, beside) for field in kind}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        values = scalar.values
        if (types.is_integer(values.type) or types.is_floating(values.type)) and not values.null_count:
            return values.to_numpy(zero_copy_only=False).copy()  # else it would keep the whole table in memory
        return [plain(value, named, beside) for value in values]
    return scalar.as_py()


def is_file(kind: Any) -> bool:
    """Whether a type is Hugging Face's {bytes, path}."""
    return arrow_module().types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def table_metadata(table: Any, names: Sequence[str]) -> Mapping[str, Sequence[Any]]:
    """Columns of a table, arrays where they are numbers (with NaN for null); dots reach into structs."""
    types = arrow_module().types
    columns: dict[str, Any] = {}
    try:
        for top in {name.partition(".")[0] for name in names}:
            column = table[top]
            numeric = types.is_integer(column.type) or types.is_floating(column.type)
            columns[top] = column.to_numpy() if numeric else column.to_pylist()
    except ValueError:  # a text that is no UTF-8; only its row is lost
        if table.num_rows == 1:
            return {name: [None] for name in names}
        middle = table.num_rows // 2
        halves = [table_metadata(part, names) for part in (table.slice(0, middle), table.slice(middle))]
        return {name: [*halves[0][name], *halves[1][name]] for name in names}
    nested = [name for name in names if "." in name]
    rows = ({top: columns[top][i] for top in columns} for i in range(table.num_rows if nested else 0))
    return {**{name: columns[name] for name in names if "." not in name}, **pick_fields(rows, nested)}


def check_columns(wanted: Sequence[str], there: Sequence[str], where: str) -> None:
    """Raises ValueError for a column that a file lacks."""
    if absent := [name for name in wanted if name not in there]:
        raise ValueError(f"{where}: no column {absent[0]!r}, but {', '.join(there)}")
