"""A parquet column of byte strings, a page at a time: a value is copied once on its way out of a page.

Arrow's reader copies it three times, into memory that is fresh each time; with images of hundreds of kB that is a tenth of what
loading costs, and a quarter of the memory. What is read here is the format's common part: plain and dictionary pages of both versions,
with Arrow's codecs (parquet-format 2.12, parquet.thrift and Encodings.md; headers are in Thrift's compact protocol).
"""

import io
import itertools
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ENCODINGS = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}
CODECS = {"UNCOMPRESSED", "SNAPPY", "GZIP", "BROTLI", "ZSTD"}
DATA, INDEX, DICTIONARY, DATA_2 = range(4)  # kinds of pages
PLAIN, BY_DICTIONARY, RLE = (0,), (2, 8), 3


def readable(chunk: pq.ColumnChunkMetaData, column: pq.ColumnSchema) -> bool:
    """Whether `values` knows how this part of a file is written."""
    known = ENCODINGS.issuperset(chunk.encodings) and chunk.compression in CODECS
    return known and chunk.physical_type == "BYTE_ARRAY" and not column.max_repetition_level


def values(file: BinaryIO, chunk: pq.ColumnChunkMetaData, column: pq.ColumnSchema) -> Iterator[bytes | None]:
    """The values of a column in a row group, None where there is none. Raises ValueError and the like where it is broken."""
    codec = None if chunk.compression == "UNCOMPRESSED" else pa.Codec(chunk.compression.lower())
    deepest, left, dictionary, buffer = column.max_definition_level, chunk.num_values, [], bytearray()
    file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
    while left:
        header = _struct(file)
        kind, size, packed = header[1], header[2], header[3]
        if not (0 <= packed <= chunk.total_compressed_size and 0 <= size <= chunk.total_uncompressed_size):
            raise ValueError(f"a page of {packed:,} bytes, {size:,} unpacked, in a column that has fewer")
        if len(buffer) < packed:
            buffer = bytearray(packed)
        page = memoryview(buffer)[:packed]
        if _filled(file, page) < packed:
            raise ValueError("it ends within a page")
        if kind == INDEX:
            continue
        about = header[{DATA: 5, DICTIONARY: 7, DATA_2: 8}[kind]]
        apart = about.get(5, 0) + about.get(6, 0) if kind == DATA_2 else 0  # bytes of levels, which are not packed
        levels, page = page[:apart], page[apart:]
        if codec and len(page) and (kind != DATA_2 or about.get(7, True)):
            page = memoryview(codec.decompress(page, size - apart))
        n = about[1]
        if kind == DICTIONARY:
            dictionary = list(itertools.islice(_plain(page), n))
            continue
        if not 0 <= n <= left:
            raise ValueError(f"a page of {n:,} values, where {left:,} are left")
        left -= n
        if kind == DATA and deepest:
            if about[3] != RLE:
                raise ValueError(f"levels of encoding {about[3]}")
            end = 4 + int.from_bytes(page[:4], "little")
            levels, page = page[4:end], page[end:]
        there = _hybrid(levels, deepest.bit_length(), n) == deepest
        encoding = about[4] if kind == DATA_2 else about[2]
        if encoding in PLAIN:
            found = _plain(page)
        elif encoding in BY_DICTIONARY:
            chosen = _hybrid(page[1:], page[0], int(there.sum())) if there.any() else []
            found = (dictionary[i] for i in chosen)
        else:
            raise ValueError(f"values of encoding {encoding}")
        for one in there.tolist():
            yield next(found) if one else None


def _filled(file: BinaryIO, page: memoryview) -> int:
    """Fills a page from a file, and says how many bytes there were."""
    at = 0
    while at < len(page) and (n := file.readinto(page[at:])):
        at += n
    return at


def _plain(page: memoryview) -> Iterator[bytes]:
    """Values one behind the other, each after its length."""
    at = 0
    while True:
        begin = at + 4
        at = begin + int.from_bytes(page[at:begin], "little")
        if at > len(page):
            raise ValueError("a value is longer than its page")
        yield bytes(page[begin:at])


def _hybrid(packed: memoryview, width: int, n: int) -> np.ndarray:
    """n numbers of `width` bits, in runs of one number or of eight each as they are."""
    if not width:
        return np.zeros(n, np.int64)
    file, runs = io.BytesIO(packed), [np.zeros(0, np.int64)]
    while n > 0:
        head = _varint(file)
        count = head >> 1
        if head & 1:
            bits = np.unpackbits(np.frombuffer(file.read(count * width), np.uint8), bitorder="little")
            runs.append((bits.reshape(-1, width) @ (1 << np.arange(width)))[:n])
            count = 8 * count
        else:
            runs.append(np.full(min(count, n), int.from_bytes(file.read((width + 7) // 8), "little")))
        n -= count
    return np.concatenate(runs)


def _struct(file: BinaryIO) -> dict[int, int | bool | dict]:
    """A Thrift struct by its fields' numbers; what is not a number or a struct is passed over."""
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
            case 7 | 8:  # a double, bytes
                for _ in range(8 if kind == 7 else _varint(file)):
                    _byte(file)
            case 12:
                found[field] = _struct(file)
            case _:
                raise ValueError(f"a page's header has a field of kind {kind}")
    return found


def _byte(file: BinaryIO) -> int:
    if one := file.read(1):
        return one[0]
    raise ValueError("it ends within a page")


def _varint(file: BinaryIO) -> int:
    number = shift = 0
    while (part := _byte(file)) & 128:
        number |= (part & 127) << shift
        shift += 7
    return number | part << shift


def _zigzag(file: BinaryIO) -> int:
    number = _varint(file)
    return number >> 1 ^ -(number & 1)
