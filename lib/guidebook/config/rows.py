"""Rows of images of one's own, read from a folder or from parquet files: where each lies, its caption or class. Imports no torch."""

import contextlib
import csv
import hashlib
import json
import subprocess
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from guidebook.config.datasets import ATTRIBUTES, DataError
from guidebook.config.errors import plain

FORMATS = (".png", ".jpg", ".jpeg")
TESTS = ("test", "validation")
LONGEST = 1000  # characters of a caption: text encoders read 77 tokens
WHOLE, FOOTER = 2**30, 2**20  # bytes of a parquet file that is hashed whole, and of the end of a larger one
READER = """
import sys, pyarrow.parquet as pq
for file in sys.argv[1:]:
    print(file, flush=True)
    for _ in pq.ParquetFile(file, buffer_size=2**20, pre_buffer=False).iter_batches(8, use_threads=False): pass
"""


class Row(NamedTuple):
    """An image, before its label has a number."""

    file: str  # of it, or of the parquet rows that it is among
    text: str | int  # caption, class, or attributes as bits
    held: bool  # whether its place says that it is of the test split


def of_folder(root: Path, digest) -> tuple[list[Row], Sequence[str] | None, str]:
    """Image files in an order that their bytes make, and the classes, where folders name these."""
    paths = [f for f in sorted(root.rglob("*")) if f.is_file() and "/." not in f"/{f.relative_to(root).as_posix()}"]
    tables = [f for f in paths if f.name in ("metadata.csv", "metadata.jsonl")]
    texts = dict.fromkeys(f for f in paths if f not in tables)
    for table in tables:
        for row, (name, text) in enumerate(_told(table), 1):
            if table.parent / name not in texts:
                raise DataError(f"{_short(table)} row {row} names {plain(name)[:80]!r}, which is not there")
            texts[table.parent / name] = text
    tops = {f.relative_to(root).parts[0] for f in texts}
    splits = tops if "train" in tops and {"train"} < tops <= {"train", *TESTS} else set()
    marked = []
    for file, text in texts.items():
        inner = file.relative_to(root).parts
        if file.suffix.lower() not in FORMATS:
            raise DataError(f"{_short(file)} is neither PNG nor JPEG: convert it, or take it away")
        if not tables and len(inner) > 1 + bool(splits):
            text = _clean(file.parent.name.replace("_", " "))
        if not text:
            way = "write it into metadata.csv (file_name,text), or put each class into a folder"
            raise DataError(f"{_short(file)} lacks a caption: {way}")
        with open(file, "rb") as opened:
            mark = hashlib.file_digest(opened, "sha256").digest()
        marked.append((mark, Row(str(file), text, bool(splits) and inner[0] in TESTS)))
    marked.sort(key=lambda one: (one[0], one[1].text))  # copies of one image by their captions
    digest.update(b"".join(mark for mark, _ in marked))
    rows = [row for _, row in marked]
    return rows, None if tables else sorted({row.text for row in rows}), "image"


def _told(table: Path) -> Iterator[tuple[str, str]]:
    """`file_name` and `text` of each row of a metadata file."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines) if table.suffix == ".csv" else map(json.loads, filter(str.strip, lines))
            if table.suffix == ".csv" and not {"file_name", "text"} <= {*(rows.fieldnames or ())}:
                first = plain(",".join(rows.fieldnames or ()))[:80]
                raise DataError(f"{_short(table)} begins with {first!r}: its first line has to be file_name,text")
            for i, row in enumerate(rows, 1):
                usable = isinstance(row, dict) and None not in row  # the key of what is in no column of csv
                name, text = (row.get(key) if usable else None for key in ("file_name", "text"))
                if not isinstance(name, str) or not isinstance(text, str) or not plain(text):
                    lacks = "text" if isinstance(name, str) else "file_name, or quotes around commas"
                    raise DataError(f"{_short(table)} row {i} lacks a {lacks}: its columns are file_name and text")
                yield name, _clean(text)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"{_short(table)} cannot be read: {plain(error)[:100]}") from None


def of_parquet(root: Path, shards: list[Path], digest) -> tuple[list[Row], Sequence[str] | None, str]:
    """Rows of parquet files, the classes or attributes, where they have these, and the column of images."""
    import pyarrow.parquet as pq

    outlive(shards)
    rows, kind = [], None
    for shard in shards:
        held = any(part.startswith(TESTS) for part in shard.relative_to(root.parent).parts[1:] or (shard.name,))
        try:
            size = shard.stat().st_size
            with open(shard, "rb") as file:
                file.seek(max(0, size - FOOTER) if size > WHOLE else 0)  # the footer says where pages lie, and how long
                digest.update(hashlib.file_digest(file, "sha256").digest() + b"%d" % size)
            with pq.ParquetFile(shard) as opened:
                image, names, columns = kind = kind or _kind(opened.schema_arrow)
                if (n := opened.metadata.num_rows) > size:
                    raise ValueError(f"{n:,} rows in {size:,} bytes are no images")
                read = (row for batch in opened.iter_batches(columns=columns) for row in batch.to_pylist())
                for row in read:
                    rows.append(Row(str(shard), _text(row, names), held))
        except Exception as error:  # damaged bytes raise nearly anything
            at = sum(row.file == str(shard) for row in rows)
            where = f" row {at}" if isinstance(error, DataError) and kind else ":"
            raise DataError(f"{shard.name}{where} {plain(error)[:200]}") from None
    return rows, names, image


def outlive(shards: Sequence[Path]) -> None:
    """Reads parquet files in a process of its own: a few damaged ones end whoever reads them. Raises DataError, which names the file."""
    read = subprocess.run([sys.executable, "-c", READER, *map(str, shards)], capture_output=True, text=True)
    if read.returncode < 0:
        file, signal = (read.stdout.splitlines() or [""])[-1], -read.returncode
        raise DataError(f"{_short(Path(file))} is damaged: it ends the process that reads it (signal {signal})")


def _kind(schema) -> tuple[str, Sequence[str] | None, list[str]]:
    """The column of images of a parquet schema, the names of classes or attributes, if it has these, and the columns of a row's text."""
    known = features(schema)
    kinds = {field.name: str(field.type) for field in schema}
    image = next((name for name, kind in kinds.items() if kind.startswith("struct<bytes: binary")), None)
    if image is None:
        raise DataError("it has no column of images {bytes, path}")
    texts = [name for name in ("text", "caption") if kinds.get(name) in ("string", "large_string")]
    classes = [k for k, f in known.items() if f.get("_type") == "ClassLabel" and f.get("names") and k in kinds]
    yes_or_no = [name for name, kind in kinds.items() if kind == "bool"]
    if texts:
        return image, None, texts[:1]
    if classes:
        return image, [_clean(n.replace("_", " ")) for n in known[classes[0]]["names"]], classes[:1]
    if set(yes_or_no) >= set(ATTRIBUTES):
        return image, ATTRIBUTES, list(ATTRIBUTES)
    if yes_or_no:
        return image, None, yes_or_no
    raise DataError("it has no column of captions (text), of classes (a ClassLabel) or of attributes (booleans)")


def features(schema) -> dict[str, Any]:
    """Features of the columns of a parquet schema by the hub's metadata; none where there are none, or they are damaged."""
    with contextlib.suppress(ValueError, TypeError, LookupError):
        return dict(json.loads(schema.metadata[b"huggingface"])["info"]["features"])
    return {}


def _text(row: dict, names: Sequence[str] | None) -> str | int:
    """The caption, the class or the attributes of a row of parquet."""
    values = list(row.values())
    if None in values:
        raise DataError("lacks a caption, a class or an attribute")
    if names is ATTRIBUTES:
        return sum(value << i for i, value in enumerate(values))
    if names is not None:
        if not 0 <= values[0] < len(names):
            raise DataError(f"has label {values[0]}; allowed are 0 to {len(names) - 1}, for {len(names)} classes")
        return names[values[0]]
    text = values[0] if isinstance(values[0], str) else ", ".join(k.replace("_", " ") for k, v in row.items() if v)
    if not (text := _clean(text)):
        raise DataError("lacks a caption")
    return text


def _clean(text: str) -> str:
    """A text on one line, composed: some systems write é as two characters in the names of files."""
    return plain(unicodedata.normalize("NFC", text))[:LONGEST]


def _short(file: Path) -> str:
    return plain("/".join(file.parts[-2:]))[-100:]
