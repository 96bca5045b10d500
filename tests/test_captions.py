"""Captions are plain replacement."""

from hypothesis import given
from hypothesis import strategies as st

from guidebook.captions import NULL, caption, class_captions


def test_every_label_is_put_in():
    assert caption("A handwritten digit {label}, yes {label}", "7") == "A handwritten digit 7, yes 7"


@given(st.text(), st.text(), st.text(alphabet="0123456789abc", min_size=1))
def test_what_stands_around_the_label_stays_as_it_is(before, after, label):
    template = before.replace("{label}", "") + "{label}" + after.replace("{label}", "")
    if template.count("{label}") == 1:  # the two halves may have made another one
        assert caption(template, label) == template.partition("{label}")[0] + label + template.partition("{label}")[2]


def test_a_template_reaches_nothing_but_the_label():
    for template in ("{label.__class__}", "{0}", "{}", "%s", "{label!r}", "${label.x}", "{{"):
        assert caption(template, "7") == template


def test_a_label_is_not_replaced_in_again():
    assert caption("a {label}", "{label}") == "a {label}"


def test_class_captions_are_in_label_order():
    assert class_captions("digit {label}", ("3", "1", "2")) == ["digit 3", "digit 1", "digit 2"]


def test_the_null_caption_is_the_empty_text():
    assert NULL == ""
