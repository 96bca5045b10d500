"""Images' bytes out of parquet files: what Arrow reads, page by page, and one line where a file is broken."""

import io
import random
import tracemalloc
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidebook.config.datasets import DataError
from guidebook.data import columns, parquet

CODECS = ("NONE", "SNAPPY", "GZIP", "BROTLI", "ZSTD")
IMAGES = st.binary(max_size=60) | st.binary(max_size=3).map(lambda b: 90 * b)  # the second can be packed
CELLS = st.none() | st.just({"bytes": None, "path": None}) | IMAGES.map(lambda b: {"bytes": b, "path": "p"})
WRITTEN = {
    "compression": st.sampled_from(CODECS),
    "data_page_version": st.sampled_from(("1.0", "2.0")),
    "use_dictionary": st.booleans(),
    "data_page_size": st.sampled_from((1, 100, 2**20)),
    "dictionary_pagesize_limit": st.sampled_from((1, 100, 2**20)),
    "row_group_size": st.sampled_from((1, 3, 1000)),
    "write_page_index": st.booleans(),
}  # fmt: skip


def table(cells: list, required: bool = False) -> pa.Table:
    image = pa.struct([pa.field("bytes", pa.binary(), not required), pa.field("path", pa.string())])
    schema = pa.schema([pa.field("image", image, not required), pa.field("label", pa.int64())])
    return pa.table({"image": cells, "label": list(range(len(cells)))}, schema)


def by_arrow(file) -> list:
    cells = pq.read_table(file).to_pylist()
    return [(row["image"] and row["image"]["bytes"], row["label"]) for row in cells]


def no_arrow(monkeypatch) -> None:
    """From here on images are read page by page, or not at all."""
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parquet")


@settings(deadline=None)
@given(st.lists(CELLS, max_size=40), st.fixed_dictionaries(WRITTEN))
def test_every_value_is_what_arrow_reads_however_it_was_written(folder, cells, how):
    with pytest.MonkeyPatch.context() as patch:
        pq.write_table(table(cells), folder / "a.parquet", **how)
        expected = by_arrow(folder / "a.parquet")
        no_arrow(patch)
        assert list(parquet.rows(str(folder / "a.parquet"), "image", "label")) == expected


@settings(deadline=None)
@given(st.lists(IMAGES, min_size=1, max_size=300), st.fixed_dictionaries(WRITTEN))
def test_columns_that_must_have_values_have_no_levels(folder, values, how):
    with pytest.MonkeyPatch.context() as patch:
        cells = [{"bytes": value, "path": ""} for value in values]
        pq.write_table(table(cells, required=True), folder / "b.parquet", **how)
        no_arrow(patch)
        assert [raw for raw, _ in parquet.rows(str(folder / "b.parquet"), "image", "label")] == values


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "LZ4"},
        {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": {"image.bytes": "DELTA_BYTE_ARRAY"}},
    ],
)
def test_what_is_written_in_other_ways_is_read_by_arrow(tmp_path, how, monkeypatch):
    cells = [{"bytes": bytes([i]) * i, "path": ""} for i in range(50)] + [None]
    pq.write_table(table(cells), tmp_path / "a.parquet", **how)
    monkeypatch.setattr(columns, "values", None)
    assert list(parquet.rows(str(tmp_path / "a.parquet"), "image", "label")) == by_arrow(tmp_path / "a.parquet")


@pytest.mark.parametrize("compression", CODECS)
def test_one_row_group_of_several_behind_an_address(tmp_path, compression, monkeypatch):
    cells = [{"bytes": random.Random(i).randbytes(300_000), "path": ""} for i in range(12)]
    pq.write_table(table(cells), tmp_path / "a.parquet", row_group_size=5, compression=compression)
    no_arrow(monkeypatch)
    fsspec.filesystem("memory").pipe("/pages/a.parquet", (tmp_path / "a.parquet").read_bytes())
    for file in (str(tmp_path / "a.parquet"), "memory://pages/a.parquet"):
        found = list(parquet.rows(file, "image", "label", 1))
        assert found == [(cell["bytes"], i) for i, cell in enumerate(cells)][5:10]


def test_a_page_is_held_at_a_time(tmp_path, monkeypatch):
    cells = [{"bytes": random.Random(i).randbytes(400_000), "path": ""} for i in range(60)]
    # By itself a writer looks every 1,024 values whether a page is full.
    pq.write_table(table(cells), tmp_path / "a.parquet", use_dictionary=False, write_batch_size=1)
    no_arrow(monkeypatch)
    before, most = pa.total_allocated_bytes(), 0
    tracemalloc.start()  # Python's own; Arrow's pool is not seen by it
    for _ in parquet.rows(str(tmp_path / "a.parquet"), "image", "label"):
        most = max(most, pa.total_allocated_bytes() - before)
    ours = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ours < 8_000_000
    assert most < 3_000_000  # of 24 million; pages are written when they have grown past 1 MiB


@pytest.mark.parametrize("compression", CODECS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_damaged_file_ends_in_one_line_or_in_other_bytes(tmp_path, compression, version, monkeypatch):
    """Never in another error, without end, or with more memory than the file says that it needs."""
    cells = [{"bytes": bytes([i]) * (i % 7), "path": ""} for i in range(100)] + [None] * 3
    file = tmp_path / "a.parquet"
    pq.write_table(table(cells), file, compression=compression, data_page_version=version, data_page_size=200)
    whole, draw, refused = file.read_bytes(), random.Random(0), 0
    data = pq.ParquetFile(file).metadata.row_group(0).column(0).total_compressed_size
    no_arrow(monkeypatch)
    for _ in range(300):
        broken = bytearray(whole)
        broken[4 + draw.randrange(data)] = draw.randrange(256)
        file.write_bytes(broken)
        try:
            said = len(list(parquet.rows(str(file), "image", "label")))
        except DataError as error:
            said = str(error)
            refused += 1
        assert said == len(cells) or "\n" not in said
    assert refused > 30


def number(n: int) -> bytes:
    """A positive number in a header: zigzag, seven bits a byte."""
    n, parts = 2 * n, []
    while n > 127:
        parts.append(n & 127 | 128)
        n >>= 7
    return bytes([*parts, n])


def page(size: int, packed: int, values: int, content: bytes) -> bytes:
    """A page of the first version with plain values."""
    about = b"\x15" + number(values) + b"\x15" + number(0) + b"\x15" + number(3) + b"\x15" + number(3) + b"\x00"
    return b"\x15\x00\x15" + number(size) + b"\x15" + number(packed) + b"\x2c" + about + b"\x00" + content


def chunk(compression: str) -> SimpleNamespace:
    """What a footer says of a column of two values."""
    kept = {"data_page_offset": 0, "dictionary_page_offset": None, "compression": compression, "num_values": 2}
    return SimpleNamespace(**kept, total_compressed_size=50, total_uncompressed_size=50)


class Slow(io.BytesIO):
    """Gives three bytes at a time."""

    def readinto(self, buffer) -> int:
        return super().readinto(buffer[:3])


@pytest.mark.parametrize(
    ("size", "packed", "values", "said"),
    [
        (10, 10, 2, None),
        (10, 10, 3, "a page of 3 values, where 2 are left"),
        (10**15, 10, 2, "in a column that has fewer"),
        (10, 10**15, 2, "in a column that has fewer"),
        (10, 20, 2, "the file ends within a page"),
        (9, 9, 2, "a value is longer than its page"),
        (7, 7, 2, "a value is longer than its page"),
        (10, 10, 1, "a page of 10 bytes, whose 1 values have 5"),
    ],
)
def test_a_page_that_says_more_than_there_is_is_refused(size, packed, values, said):
    """Before the memory is taken that it asks for."""
    file = Slow(page(size, packed, values, b"\x01\x00\x00\x00a" + b"\x01\x00\x00\x00b"))
    found = columns.values(file, chunk("UNCOMPRESSED"), SimpleNamespace(max_definition_level=0))
    if said is None:
        assert list(found) == [b"a", b"b"]
    else:
        with pytest.raises(ValueError, match=said):
            list(found)


def test_where_no_value_is_there_nothing_needs_to_be_written():
    about = b"".join(b"\x15" + number(n) for n in (2, 2, 2, 8, 2, 0)) + b"\x11\x00"  # by the dictionary, packed
    levels = b"\x04\x00"  # a run of two zeros
    file = io.BytesIO(b"\x15\x06\x15\x04\x15\x04\x5c" + about + b"\x00" + levels)
    assert list(columns.values(file, chunk("SNAPPY"), SimpleNamespace(max_definition_level=2))) == [None, None]


@pytest.mark.parametrize(("width", "n"), [(1, 3), (1, 800), (3, 20), (4, 16), (7, 100), (8, 9), (12, 33), (32, 5)])
@pytest.mark.parametrize("repeated", [False, True])
def test_numbers_in_runs_are_read_to_the_end_and_a_run_cut_short_is_refused(width, n, repeated):
    """A run of eights may lack what fills up its last eight; none may lack a number."""
    draw = random.Random(n)
    if repeated:
        wanted = n * [0] + n * [1]
        packed = b"".join(number(n) + one.to_bytes((width + 7) // 8, "little") for one in (0, 1))
    else:
        wanted = [draw.randrange(2**width) for _ in range(n)]
        bits = sum(one << (i * width) for i, one in enumerate(wanted))
        head = number(-(-n // 8))
        packed = bytes([head[0] | 1]) + head[1:] + bits.to_bytes((n * width + 7) // 8, "little")
    assert columns._hybrid(memoryview(packed), width, len(wanted)).tolist() == wanted
    with pytest.raises(ValueError, match="ends within a number"):
        columns._hybrid(memoryview(packed)[:-1], width, len(wanted))


def test_what_a_header_says_beside_numbers_is_passed_over_without_being_read():
    """Some writers put the least and the largest image into every page's header."""
    least = b"\x18" + number(200_000) + bytes(400_000)  # the length is no zigzag
    about = b"\x15" + number(2) + b"\x15\x00\x15\x06\x15\x06\x1c" + least + b"\x00\x00"
    file, taken = io.BytesIO(b"\x15\x00\x15\x14\x15\x14\x2c" + about + b"\x00"), []
    counted = SimpleNamespace(read=lambda n: taken.append(n) or file.read(n), seek=file.seek)
    assert columns._struct(counted) == {1: 0, 2: 10, 3: 10, 5: {1: 2, 2: 0, 3: 3, 4: 3, 5: {}}}
    assert sum(taken) < 50


@pytest.mark.parametrize("compression", ["UNCOMPRESSED", "SNAPPY"])
@pytest.mark.parametrize(("width", "said"), [(1, None), (200, "numbers of 200 bits")])
def test_a_dictionarys_width_is_not_believed_when_it_cannot_be(compression, width, said):
    words = b"\x01\x00\x00\x00a" + b"\x01\x00\x00\x00b"
    chosen = bytes([width]) + b"\x04\x01"  # a run of two ones

    def of(kind: bytes, about: bytes, content: bytes) -> bytes:
        packed = content if compression == "UNCOMPRESSED" else pa.Codec("snappy").compress(content, asbytes=True)
        return kind + b"\x15" + number(len(content)) + b"\x15" + number(len(packed)) + about + b"\x00" + packed

    counts = b"".join(b"\x15" + number(n) for n in (2, 8, 3, 3)) + b"\x00"
    dictionary = of(b"\x15\x04", b"\x4c\x15\x04\x15\x00\x00", words)
    file = io.BytesIO(dictionary + of(b"\x15\x00", b"\x2c" + counts, chosen))
    found = columns.values(file, chunk(compression), SimpleNamespace(max_definition_level=0))
    if said is None:
        assert list(found) == [b"b", b"b"]
    else:
        with pytest.raises(ValueError, match=said):
            list(found)
