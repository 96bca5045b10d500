"""A parquet column of byte strings, a page at a time: a value is copied once on its way out of a page.

Arrow's reader copies it three times, into memory that is fresh each time. What is read here is the format's common part: plain and
dictionary pages of both versions, with Arrow's codecs (parquet-format 2.12, parquet.thrift and Encodings.md; headers are in Thrift's
compact protocol). A page is as large as its writer made it: a dictionary may hold all images of a row group, and is held meanwhile.
"""

import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# Writers name BIT_PACKED for levels that a column does not have.
ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
CODECS = {"UNCOMPRESSED", "SNAPPY", "GZIP", "BROTLI", "ZSTD"}
DATA, DICTIONARY, DATA_2 = 0, 2, 3  # kinds of pages
PLAIN, RLE, BY_DICTIONARY = 0, 3, (2, 8)  # encodings


def readable(chunk: pq.ColumnChunkMetaData, column: pq.ColumnSchema) -> bool:
    """Whether `values` knows how this part of a file is written."""
    known = ENCODINGS.issuperset(chunk.encodings) and chunk.compression in CODECS
    return known and chunk.physical_type == "BYTE_ARRAY" and not column.max_repetition_level


def values(file: BinaryIO, chunk: pq.ColumnChunkMetaData, column: pq.ColumnSchema) -> Iterator[bytes | None]:
    """The values of a column in a row group, None where there is none.

    Raises ValueError where a page does not hold what its header says; a damaged header may raise nearly anything.
    """
    codec = None if chunk.compression == "UNCOMPRESSED" else pa.Codec(chunk.compression.lower())
    left, dictionary, buffer = chunk.num_values, [], bytearray()
    at = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
    while left:
        file.seek(at)  # fsspec's memory:// gives one file to all
        header = _struct(file)
        kind, size, packed = header[1], header[2], header[3]
        if not (0 <= packed <= chunk.total_compressed_size and 0 <= size <= chunk.total_uncompressed_size):
            raise ValueError(f"a page of {packed:,} bytes, {size:,} unpacked, in a column that has fewer")
        at = file.tell() + packed
        if kind not in (DATA, DICTIONARY, DATA_2):
            continue
        if len(buffer) < packed:
            buffer = bytearray(packed)
        page = memoryview(buffer)[:packed]
        _fill(file, page)
        about = header[{DATA: 5, DICTIONARY: 7, DATA_2: 8}[kind]]
        apart = about.get(5, 0) + about.get(6, 0) if kind == DATA_2 else 0  # bytes of levels, which are not packed
        if not 0 <= apart <= min(size, packed):
            raise ValueError(f"levels of {apart:,} bytes in a page of {packed:,}")
        levels, page = page[:apart], page[apart:]
        # Arrow before 3.0 says of packed pages that they are not.
        if codec and len(page) and (kind != DATA_2 or about.get(7, True) or size != packed):
            page = memoryview(codec.decompress(page, size - apart)).cast("B")
        if kind == DICTIONARY:
            dictionary, buffer = list(_plain(page, about[1])), bytearray()  # it may be far larger than the others
            continue
        if not 0 <= about[1] <= left:
            raise ValueError(f"a page of {about[1]:,} values, where {left:,} are left")
        left -= about[1]
        yield from _data(page, levels, kind, about, column.max_definition_level, dictionary)
        del page, levels  # before the next is unpacked


def _data(
    page: memoryview, levels: memoryview, kind: int, about: dict, deepest: int, dictionary: list[bytes]
) -> Iterator[bytes | None]:
    """The values of a page of data, `about` which its header speaks."""
    if kind == DATA and deepest:
        if about[3] != RLE:
            raise ValueError(f"levels of encoding {about[3]}")
        end = 4 + int.from_bytes(page[:4], "little")
        levels, page = page[4:end], page[end:]
    there = _hybrid(levels, deepest.bit_length(), about[1]) == deepest
    n, encoding = int(there.sum()), about[4] if kind == DATA_2 else about[2]
    if encoding == PLAIN:
        found = _plain(page, n)
    elif encoding in BY_DICTIONARY:
        found = (dictionary[i] for i in (_hybrid(page[1:], page[0], n) if n else ()))
    else:
        raise ValueError(f"values of encoding {encoding}")
    for one in there.tolist():
        yield next(found) if one else None


def _fill(file: BinaryIO, page: memoryview) -> None:
    at = 0
    while at < len(page):
        if not (n := file.readinto(page[at:])):
            raise ValueError("the file ends within a page")
        at += n


def _plain(page: memoryview, n: int) -> Iterator[bytes]:
    """n values one behind the other, each after its length."""
    at = 0
    for i in range(n):
        begin = at + 4
        at = begin + int.from_bytes(page[at:begin], "little")
        if at > len(page):
            raise ValueError("a value is longer than its page")
        if i == n - 1 and at < len(page):
            raise ValueError(f"a page of {len(page):,} bytes, whose {n:,} values have {at:,}")
        yield bytes(page[begin:at])


def _hybrid(packed: memoryview, width: int, n: int) -> np.ndarray:
    """n numbers of `width` bits, in runs of one number or of eight each as they are."""
    if width > 32:
        raise ValueError(f"numbers of {width} bits")
    if not width:
        return np.zeros(n, np.int64)
    file, runs = io.BytesIO(packed), [np.zeros(0, np.int64)]
    while n > 0:
        head = _varint(file)
        if head & 1:
            # Some leave out what fills up the last eight
            raw = np.frombuffer(file.read(min(head >> 1, -(-n // 8)) * width), np.uint8)
            bits = np.unpackbits(raw, bitorder="little")
            run = (bits[: len(bits) // width * width].reshape(-1, width) @ (1 << np.arange(width)))[:n]
        else:
            raw = bytes(_byte(file) for _ in range((width + 7) // 8))
            run = np.full(min(head >> 1, n), int.from_bytes(raw, "little"))
        runs.append(run)
        n -= len(run)
    return np.concatenate(runs)


def _struct(file: BinaryIO) -> dict[int, int | bool | dict]:
    """A Thrift struct by its fields' numbers; bytes and fractions are passed over. Raises ValueError."""
    found, field = {}, 0
    while head := _byte(file):
        kind, field = head & 15, field + (head >> 4) if head >> 4 else _zigzag(file)
        match kind:
            case 1 | 2:  # true, false
                found[field] = kind == 1
            case 3:
                found[field] = _byte(file)
            case 4 | 5 | 6:
                found[field] = _zigzag(file)
            case 7 | 8:  # a fraction; bytes: the page's least and largest value, in some files whole images
                file.seek(8 if kind == 7 else _varint(file), io.SEEK_CUR)
            case 12:
                found[field] = _struct(file)
            case _:
                raise ValueError(f"a page's header has a field of kind {kind}")
    return found


def _byte(file: BinaryIO) -> int:
    if one := file.read(1):
        return one[0]
    raise ValueError("a page ends within a number")


def _varint(file: BinaryIO) -> int:
    number = 0
    for shift in range(0, 70, 7):
        part = _byte(file)
        number |= (part & 127) << shift
        if part < 128:
            return number
    raise ValueError("a number without end")


def _zigzag(file: BinaryIO) -> int:
    number = _varint(file)
    return number >> 1 ^ -(number & 1)
