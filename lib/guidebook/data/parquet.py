"""Parquet files in the hub's layout: images as encoded bytes, class indices beside them; or image files, read in their place."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from guidebook.config.datasets import DataError
from guidebook.config.rows import features

ROWS = 4  # read at a time: a row group may take a gigabyte, and fresh memory for larger batches longer than reading
Label = str | tuple[str, ...]  # column of the class index, or columns of booleans
File = str | tuple[str, ...]  # a parquet file, or image files that are read together


def opened(file: str) -> pq.ParquetFile:
    """A parquet file on this machine, or behind an address such as hf://datasets/… Raises DataError."""
    try:
        # With `pre_buffer`, or without a buffer, the columns of a row group are read at once.
        if "://" not in file:
            return pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False)
        system, path = fsspec.core.url_to_fs(file)
        return pq.ParquetFile(path, filesystem=system, buffer_size=2**23, pre_buffer=False)
    except Exception as error:  # of the file, the disk, the network
        raise _unreadable(file, "", error) from None


def groups(file: File) -> list[tuple[int, int]]:
    """Rows and bytes of each row group. Raises DataError."""
    if isinstance(file, tuple):
        return [(len(file), 0)]
    with opened(file) as parquet:
        found = map(parquet.metadata.row_group, range(parquet.num_row_groups))
        return [(group.num_rows, group.total_byte_size) for group in found]


def count(files: Sequence[File]) -> int:
    """Rows of all files together. Raises DataError."""
    return sum(n for file in files for n, _ in groups(str(file)))


def values(files: Sequence[File], column: str) -> set[int]:
    """The values that occur in a column. Raises DataError."""
    found = set()
    for file in map(str, files):
        with opened(file) as parquet:
            try:
                found.update(parquet.read(columns=[column])[column].unique().to_pylist())
            except Exception as error:  # damaged bytes raise nearly anything
                raise _unreadable(file, "", error, f" with the column {column}") from None
    return found


def rows(file: File, image: str, label: Label, group: int | None = None) -> Iterator[tuple[bytes | None, int | None]]:
    """(bytes of the image file, class index) of each row, of one row group or of all. Raises DataError.

    Where `label` names columns of booleans, the number whose bit i is the i-th of them. Only these columns are read, and the `path`
    beside the bytes is never opened. Without columns of labels, and of image files, it is 0.
    """
    if isinstance(file, tuple):
        yield from ((Path(name).read_bytes(), 0) for name in file)
        return
    labels, kind = (label, "booleans") if isinstance(label, tuple) else ((label,), "whole numbers")
    right = pa.types.is_boolean if kind == "booleans" else pa.types.is_integer
    with opened(file) as parquet:
        try:
            for name in labels:
                if not right(found := parquet.schema_arrow.field(name).type):
                    raise TypeError(f"{name} is {found}")
            groups = range(parquet.num_row_groups) if group is None else [group]
            columns, left = [f"{image}.bytes", *labels], sum(parquet.metadata.row_group(g).num_rows for g in groups)
            for batch in parquet.iter_batches(ROWS, row_groups=groups, columns=columns, use_threads=False):
                cells = zip(*(batch[name].to_pylist() for name in labels), strict=True) if labels else [()] * len(batch)
                for raw, numbers in zip(batch[image].flatten()[0], cells, strict=True):
                    yield raw.as_py(), None if None in numbers else sum(x << i for i, x in enumerate(numbers))
                left -= len(batch)
            if left:  # Arrow ends a column without a word where a damaged page says so
                raise ValueError(f"{left:,} rows are missing")
        except Exception as error:  # damaged bytes raise nearly anything
            which = "" if group is None else f", row group {group},"
            layout = f" with the columns {image} {{bytes, path}} and {', '.join(labels)[:60]} ({kind})"
            raise _unreadable(file, which, error, layout) from None


def class_names(file: str, label: Label) -> list[str]:
    """The names of classes in a file of the hub; none where it does not say. Raises DataError."""
    with opened(file) as parquet:
        feature = features(parquet.schema_arrow).get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    return list(map(str, names)) if isinstance(names, list) else []


def class_of(number: int | None, numbers: Sequence[int], row: str) -> int:
    """The class index of the number that a row of a file has as its label, the place of it in `numbers`. Raises DataError."""
    if number is None or number not in numbers:
        allowed = f"0 to {len(numbers) - 1}, for {len(numbers)} classes" if isinstance(numbers, range) else f"{numbers}"
        raise DataError(f"{row} has {'no label' if number is None else f'label {number}'}; allowed are {allowed}")
    return numbers.index(number)


def _unreadable(file: str, which: str, error: Exception, layout: str = "") -> DataError:
    wrong = "was not to be had, or is not a whole parquet file" if "://" in file else "is not a whole parquet file"
    kind = "" if isinstance(error, OSError | ValueError | TypeError | pa.ArrowException) else type(error).__name__
    return DataError(f"{PurePosixPath(file).name}{which} {wrong}{layout}: " + " ".join(f"{kind} {error}".split())[:200])
