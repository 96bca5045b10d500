"""Figures: what an axis says is so, whatever was trained."""

import pytest

from guidebook import figures

STATS = [{"nimg": 100 * i, "loss": 1 / i, "loss_by_timestep": [3.0, 2.0, 1 / i]} for i in (1, 2, 3)]


@pytest.fixture
def axes():
    drawn = figures.loss_curves({"run": STATS}), figures.loss_by_timestep({"run": STATS}, 30)
    return [figure.axes[0] for figure in drawn]


def test_both_figures_of_the_loss_call_it_alike_and_not_an_error_since_it_may_be_weighted(axes):
    over_images, over_timesteps = (a.get_ylabel() for a in axes)
    assert over_images == over_timesteps
    assert "error" not in over_images


def test_the_loss_is_drawn_where_it_was_logged(axes):
    line = axes[0].lines[0]
    assert line.get_xdata().tolist() == [100, 200, 300]
    assert line.get_ydata().tolist() == [1, 1 / 2, 1 / 3]
    assert axes[1].patches[0].get_data().values[2] == 1 / 3  # the last tenth of three lines is one
