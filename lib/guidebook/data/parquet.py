"""Parquet files in the hub's layout: images as encoded bytes, class indices beside them."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from guidebook.config.datasets import DataError
from guidebook.data import columns


def opened(file: str) -> pq.ParquetFile:
    """A parquet file on this machine, or behind an address such as hf://datasets/… Raises DataError."""
    try:
        if "://" not in file:
            return pq.ParquetFile(file, buffer_size=2**20)  # without a buffer a row group is read at once
        system, path = fsspec.core.url_to_fs(file)
        return pq.ParquetFile(path, filesystem=system, buffer_size=2**23)
    except Exception as error:  # of the file, the disk, the network
        raise DataError(f"{PurePosixPath(file).name} {_wrong(file)}: {_said(error)}") from None


def rows(
    file: str, image: str, label: str | tuple[str, ...], group: int | None = None
) -> Iterator[tuple[bytes | None, int | None]]:
    """(bytes of the image file, class index) of each row, of one row group or of all. Raises DataError.

    Where `label` names columns of booleans, the number whose bit i is the i-th of them. Only these columns are read, and the `path`
    beside the bytes is never opened.
    """
    labels, kind = (label, "booleans") if isinstance(label, tuple) else ((label,), "whole numbers")
    with opened(file) as parquet:
        try:
            right = pa.types.is_boolean if kind == "booleans" else pa.types.is_integer
            for name in labels:
                if not right(found := parquet.schema_arrow.field(name).type):
                    raise TypeError(f"{name} is {found}")
            for number in range(parquet.num_row_groups) if group is None else [group]:
                told = parquet.read_row_group(number, columns=list(labels), use_threads=False)
                cells = zip(*(told[name].to_pylist() for name in labels), strict=True)
                yield from zip(_bytes(file, parquet, number, image), map(_number, cells), strict=True)
        except Exception as error:  # damaged bytes raise nearly anything
            which = "" if group is None else f", row group {group},"
            raise DataError(
                f"{PurePosixPath(file).name}{which} {_wrong(file)} with the columns {image} {{bytes, path}} and {', '.join(labels)[:60]} ({kind}): "
                f"{_said(error)}"
            ) from None


def _bytes(file: str, parquet: pq.ParquetFile, group: int, image: str) -> Iterator[bytes | None]:
    """The bytes of the images of a row group, one at a time."""
    name, part = f"{image}.bytes", parquet.metadata.row_group(group)
    i = [part.column(i).path_in_schema for i in range(part.num_columns)].index(name)
    chunk, column = part.column(i), parquet.schema.column(i)
    if columns.readable(chunk, column):
        if chunk.num_values != part.num_rows:
            raise ValueError(f"{chunk.num_values:,} values in {part.num_rows:,} rows")
        with _raw(file) as raw:
            yield from columns.values(raw, chunk, column)
    else:
        for batch in parquet.iter_batches(4, row_groups=[group], columns=[name], use_threads=False):
            for cell in batch[image].field("bytes"):
                yield cell.as_py()


def _raw(file: str) -> BinaryIO:
    """The bytes of a file, here or behind an address."""
    if "://" not in file:
        return open(file, "rb")
    system, path = fsspec.core.url_to_fs(file)
    return system.open(path, block_size=2**23)


def _number(cells: tuple[int | bool | None, ...]) -> int | None:
    """A class index as it is; booleans as the bits of a number."""
    if len(cells) == 1 or None in cells:
        return cells[0] if len(cells) == 1 else None
    return sum(1 << i for i, cell in enumerate(cells) if cell)


def _wrong(file: str) -> str:
    return "was not to be had, or is not a whole parquet file" if "://" in file else "is not a whole parquet file"


def _said(error: Exception) -> str:
    told = "" if isinstance(error, OSError | ValueError | TypeError | pa.ArrowException) else type(error).__name__
    return " ".join(f"{told} {error}".split())[:200]
