"""What the library costs."""

import pytest

from guidebook.bench import checkpoint, loop


@pytest.mark.slow
def test_the_training_loop_costs_at_most_three_percent_over_a_bare_one():
    lines = []
    ratio = loop(lines.append)
    assert ratio <= 1.03, "\n".join(lines)


@pytest.mark.slow
def test_checkpoints_cost_at_most_two_percent_of_training_at_the_demos_interval():
    lines = []
    share = checkpoint(lines.append)
    assert share <= 0.02, "\n".join(lines)
