"""The book that `make book` built, page by page: nothing outside, light, readable by anyone, on a phone too."""

import pytest
from look import faults, look, pages

from guidebook.book.build import OUTPUT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PARTS = 6  # for several processes


@pytest.mark.parametrize("part", range(PARTS))
def test_no_page_of_the_whole_book_has_a_fault(part, browser):
    if not OUTPUT.exists():
        pytest.skip("no book is built: make book")
    mine = list(pages(OUTPUT).items())[part::PARTS]
    found = {name: faults(look(browser, file)) for name, file in mine}
    assert found
    assert {name: of for name, of in found.items() if of} == {}
