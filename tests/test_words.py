"""Words of a command line."""

import pytest

from guidebook.config.params import ParamsError, load
from guidebook.config.yamlfile import overrides, seeds


def test_a_small_power_of_ten_may_be_written_as_people_write_it():
    assert load("mnist", "demo", overrides(["train.lr=1e-4", "train.ema=[]", "sample.weights=raw"])).train.lr == 1e-4


def test_values_are_what_yaml_makes_of_them_and_text_where_it_makes_nothing():
    given = ["a.list=[0, 1.5]", "a.none=null", "a.flag=true", "a.text=[ no list", "a.equals=x=y"]
    assert overrides(given) == {
        "a.list": [0, 1.5], "a.none": None, "a.flag": True, "a.text": "[ no list", "a.equals": "x=y",
    }  # fmt: skip


def test_seeds_are_numbers_with_commas_between_them():
    assert seeds("0, 1,12") == [0, 1, 12]
    assert seeds(None) is None
    for wrong in ("", "0;1", "-1", "1.5", "a"):
        with pytest.raises(ParamsError, match="write whole numbers with commas between them"):
            seeds(wrong)
