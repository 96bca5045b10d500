"""What the library costs."""

import pytest

from guidebook.bench import loop


@pytest.mark.slow
def test_the_training_loop_costs_at_most_three_percent_over_a_bare_one():
    lines = []
    ratio = loop(lines.append)
    assert ratio <= 1.03, "\n".join(lines)
