"""Images' bytes out of parquet files: what they hold, in little memory, and one line where a file is broken."""

import random
import tracemalloc

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guidebook.config.datasets import DataError
from guidebook.data import parquet

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


def table(cells: list) -> pa.Table:
    image = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    schema = pa.schema([pa.field("image", image), pa.field("label", pa.int64())])
    return pa.table({"image": cells, "label": list(range(len(cells)))}, schema)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parquet")


@settings(deadline=None)
@given(st.lists(CELLS, max_size=40), st.fixed_dictionaries(WRITTEN))
def test_every_value_is_read_however_it_was_written(folder, cells, how):
    pq.write_table(table(cells), folder / "a.parquet", **how)
    expected = [(cell and cell["bytes"], i) for i, cell in enumerate(cells)]
    assert list(parquet.rows(str(folder / "a.parquet"), "image", "label")) == expected


@pytest.mark.parametrize("compression", CODECS)
def test_one_row_group_of_several_behind_an_address(tmp_path, compression):
    cells = [{"bytes": random.Random(i).randbytes(300_000), "path": ""} for i in range(12)]
    pq.write_table(table(cells), tmp_path / "a.parquet", row_group_size=5, compression=compression)
    fsspec.filesystem("memory").pipe("/pages/a.parquet", (tmp_path / "a.parquet").read_bytes())
    for file in (str(tmp_path / "a.parquet"), "memory://pages/a.parquet"):
        found = list(parquet.rows(file, "image", "label", 1))
        assert found == [(cell["bytes"], i) for i, cell in enumerate(cells)][5:10]


def test_a_few_images_are_held_at_a_time(tmp_path):
    cells = [{"bytes": random.Random(i).randbytes(400_000), "path": ""} for i in range(60)]
    # By itself a writer looks every 1,024 values whether a page is full.
    pq.write_table(table(cells), tmp_path / "a.parquet", use_dictionary=False, write_batch_size=1)
    before, most = pa.total_allocated_bytes(), 0
    tracemalloc.start()  # Python's own; Arrow's pool is not seen by it
    for _ in parquet.rows(str(tmp_path / "a.parquet"), "image", "label"):
        most = max(most, pa.total_allocated_bytes() - before)
    ours = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ours < 8_000_000
    assert most < 4_000_000  # of 24 million; pages are written when they have grown past 1 MiB


@pytest.mark.parametrize("compression", CODECS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_damaged_file_ends_in_one_line_or_in_other_bytes(tmp_path, compression, version):
    """Never in another error, without end, or with more memory than the file says that it needs."""
    cells = [{"bytes": bytes([i]) * (i % 7), "path": ""} for i in range(100)] + [None] * 3
    file = tmp_path / "a.parquet"
    pq.write_table(table(cells), file, compression=compression, data_page_version=version, data_page_size=200)
    whole, draw, refused = file.read_bytes(), random.Random(0), 0
    data = pq.ParquetFile(file).metadata.row_group(0).column(0).total_compressed_size
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
