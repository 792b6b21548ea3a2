"""CSV, TSV and Parquet tables as rows of text."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medml.catalogue.columns import simplify
from medml.errors import Refusal

SUFFIXES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text.

    Attributes
    ----------
    headers : tuple of str
        As written.
    rows : list of dict
        Header to text, blanks stripped; every row has every header.
    """

    headers: tuple[str, ...]
    rows: list[dict[str, str]] = field(default_factory=list)

    def header(self, *aliases: str) -> str | None:
        """Return the header that stands for one of ``aliases``, the first alias first."""
        simple = {simplify(header): header for header in reversed(self.headers)}
        return next((simple[alias] for alias in aliases if alias in simple), None)


def read_table(path: Path, *, max_bytes: int, max_rows: int) -> Table:
    """Read a table.

    Raises
    ------
    Refusal
        ``table_too_large``, or ``bad_table`` if it is not text, has no header or a header twice.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            reason = f"the table has {size} bytes, at most {max_bytes} are read; raise max_table_bytes"
            raise Refusal("table_too_large", reason)
        rows = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path)
        headers = tuple(header.strip() or f"column {n}" for n, header in enumerate(next(rows, ()), start=1))
        if not headers or len(set(headers)) != len(headers):
            raise Refusal("bad_table", "the first line must name the columns, each once; check the file's header")
        table = Table(headers)
        for row in rows:
            if len(table.rows) >= max_rows:
                raise Refusal("table_too_large", f"more than {max_rows} rows; raise max_table_rows or split the table")
            if any(cell.strip() for cell in row):
                padded = [*row, *[""] * (len(headers) - len(row))]
                table.rows.append({h: cell.strip() for h, cell in zip(headers, padded, strict=False)})
    except (csv.Error, OSError, ValueError) as error:
        raise Refusal("bad_table", f"the table cannot be read ({error}); expected CSV, TSV or Parquet") from None
    return table


def _text(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a text table; the separator is the one its first line uses most."""
    encoding = _encoding(path)
    with path.open(encoding=encoding, newline="") as file:
        first = file.readline()
        if "\0" in first:
            raise ValueError("it holds NUL bytes")
        file.seek(0)
        separator = max(("\t", ",", ";", "|"), key=first.count)
        yield from csv.reader(file, delimiter=separator, strict=True)


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return "cp1252"
    return "utf-8-sig"


def _parquet(path: Path) -> Iterator[list[str]]:
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    yield list(file.schema_arrow.names)
    for batch in file.iter_batches(batch_size=4096):
        columns = [column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            yield ["" if cell is None else str(cell) for cell in row]
