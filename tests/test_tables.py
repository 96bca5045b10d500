"""Tables put each number under its own head, and leave a place empty rather than shift the others."""

import dataclasses
import re

import pytest
import torch

from guidebook.config.params import load
from guidebook.config.paths import NOTEBOOKS
from guidebook.report import banner, tables
from guidebook.runs.run import open_run


def test_tensors_are_told_by_shape_type_and_range():
    heads, rows = cells(tables.tensors(x=torch.tensor([[-2.0, 0.0, 5.0]]), labels=torch.tensor([3, 4])))
    assert heads == ["tensor", "shape", "type", "least", "mean", "largest", "standard deviation"]
    assert rows == {
        "x": ["(1, 3)", "float32", "-2", "1", "5", "3.61"],
        "labels": ["(2,)", "int64", "3", "3.5", "4", "0.707"],
    }


def record(metric, value, n=1000, **more):
    return {"metric": metric, "value": value, "low": value - 0.1, "high": value + 0.1, "n": n, "guidance": 2.0} | more


def cells(table):
    """Heads, then a dict of each row from its first cell to the others."""
    text = table.text.replace("&nbsp;", " ").replace("<wbr>", "")
    rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    assert {len(row) for row in rows} == {len(rows[0])}
    return rows[0], {row[0]: row[1:] for row in rows[1:]}


EVERY = [
    record("fd_judge", 70.0),  # by the published numbers of images
    record("fd_judge", 60.0, 5000),
    record("adherence", 0.9, 5000),
    record("accuracy_untrained", 0.1),
]


def test_both_protocols_stand_side_by_side_with_their_numbers_of_images():
    heads, rows = cells(tables.protocols({2.0: EVERY}, [record("fd_judge", 5.0), record("fd_judge", 3.0, 9000)]))
    assert heads == ["", "fd_judge against test images", "untrained judge", "against the train split", "trained judge"]
    assert rows["w = 2"] == [
        "70.0 [69.9, 70.1] (n = 1,000)",
        "10.0 % [0.0, 20.0] (n = 1,000)",
        "60.0 [59.9, 60.1] (n = 5,000)",
        "90.0 % [80.0, 100.0] (n = 5,000)",
    ]
    assert rows["real images"] == ["5.00 [4.90, 5.10] (n = 1,000)", "", "3.00 [2.90, 3.10] (n = 9,000)", ""]


def test_no_share_is_printed_above_100_per_cent():
    """Older records hold such."""
    assert tables.with_interval(record("adherence", 0.99)) == "99.0 % [89.0, 100.0]"


def test_the_distance_of_infinitely_many_images_counts_where_there_is_one():
    fid = [record("fid", 70.0), record("fid", 60.0, 5000), record("fid_inf", 50.0, 5000)]
    heads, rows = cells(tables.protocols({2.0: fid}, fid))
    assert heads[1] == "fid against test images"
    assert rows["w = 2"][2] == "50.0 [49.9, 50.1] (n = 5,000)"


@pytest.mark.parametrize("gone", range(1, 4))
def test_what_is_not_measured_leaves_its_place_empty(gone):
    whole, without = (
        cells(tables.protocols({2.0: of}, EVERY))[1]["w = 2"] for of in (EVERY, EVERY[:gone] + EVERY[gone + 1 :])
    )
    differ = [i for i, (a, b) in enumerate(zip(whole, without, strict=True)) if a != b]
    assert differ == [{1: 2, 2: 3, 3: 1}[gone]]
    assert without[differ[0]] == ""


def test_beside_adherence_stands_what_the_judge_reads_of_real_images():
    real = record("adherence", 0.7, 9000, guidance=None)
    heads, rows = cells(tables.metric_table([real, record("adherence", 0.9), record("adherence", 0.4, guidance=0.0)]))
    assert (heads, list(rows)) == (["w", "n", "adherence"], ["0", "2", "real images"])
    assert rows["real images"] == ["9,000", "70.0 % [60.0, 80.0]"]


def test_every_table_of_adherence_in_a_notebook_has_that_ceiling():
    calls = [
        line for page in NOTEBOOKS.glob("*.ipynb") for line in re.findall(r"metric_table\((.*)\)", page.read_text())
    ]
    assert len(calls) >= 8
    assert [call for call in calls if "*real" not in call] == []


def test_numbers_of_images_are_in_order_with_the_limit_last():
    curves = {
        "w = 1": [record("fid", 9.0, 50), record("fid", 8.0, 1000), record("fid_inf", 7.0)],
        "real": [record("fid", 5.0, 50), record("fid", 4.0, 10_000)],
    }
    heads, rows = cells(tables.count_table(curves))
    assert heads == ["N", "w = 1", "real"]
    assert list(rows) == ["50", "1,000", "10,000", "∞"]
    assert rows["∞"] == ["7.00 [6.90, 7.10]", ""]
    assert rows["10,000"] == ["", "4.00 [3.90, 4.10]"]


def test_the_banner_says_which_settings_of_a_list_are_gone_or_new():
    ddpm, ddim = ({"sampler": n, "steps": 10, "eta": 0.0, "spacing": "leading"} for n in ("ddpm", "ddim"))
    one, other = "ddpm steps 10 eta 0.0 leading", "ddim steps 10 eta 0.0 leading"
    assert banner._changed([ddpm, ddim], [ddim]) == f"lacks {one}"
    assert banner._changed([], [ddim, ddpm]) == f"adds {other}, {one}"
    assert banner._changed([ddpm], [ddim]) == f"lacks {one} and adds {other}"
    assert banner._changed([ddpm, ddim], [ddim, ddpm]) == "is in another order"
    assert banner._changed([1.0, 2.0], [1.0]) == "is 1.0 instead of 1.0, 2.0"


def test_the_banner_says_how_many_images_a_limited_run_knows(runs, tiny):
    for limit, told in ((60, True), (None, False), (5000, False)):  # digits has fewer than the last
        text = banner.banner(open_run(tiny.replace(data={"limit": limit})))
        assert ("Of each split this run knows the first 60 at most" in text) == told


def test_the_banner_of_our_own_setting_says_that_it_is_ours_and_a_short_training_takes_no_zero_minutes(runs, tiny):
    best = open_run(tiny.replace(profile="best"))
    best.note(images_seen=16, train_seconds=12.0, device="a CPU")
    assert (
        "Its setting is this study&#x27;s own, not the published one. 16 images seen, under a minute of training"
        in banner.banner(best)
    )
    assert "Its setting" not in banner.banner(open_run(tiny))


def test_the_banner_names_the_runs_of_its_profile_that_the_page_does_not_show(runs, tiny):
    run, other = (open_run(tiny.replace(train={"lr": lr})) for lr in (1e-3, 0.5))
    kept = open_run(load("mnist", "demo"))
    assert "Not shown" not in banner.banner(run)
    text = banner.banner(run, [other, dataclasses.replace(kept, recorded=True)])
    assert re.search(rf"<br>Not shown is {other.path.name}: [^<]*train\.lr is 0\.5 instead of [^<]*\.<br>", text)
    assert text.endswith("<br>Not shown is the record: keeps to its profile.</div>")


@pytest.mark.parametrize(
    ("x", "said"),
    [(0, "0"), (0.44, "0.44"), (17, "17"), (150, "1.5·10²"), (2.63e-5, "2.6·10⁻⁵"), (-4e12, "-4·10¹²")],
)
def test_a_small_or_large_number_has_its_power_of_ten(x, said):
    assert tables.number(x) == said
