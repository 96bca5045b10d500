"""Figures: what an axis says is so, whatever was trained."""

import numpy as np
import pytest
import torch

from guidebook.config.params import load
from guidebook.config.sampling import Solver
from guidebook.config.schema import Flow
from guidebook.diffusion.objective import objective
from guidebook.diffusion.paths import levels, walk
from guidebook.diffusion.solvers import SOLVERS, times
from guidebook.report import charts, figures

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


def test_a_timestep_that_no_step_fell_on_has_no_loss():
    stats = [{"loss_by_timestep": [1.0, None, None]}, {"loss_by_timestep": [3.0, 5.0, None]}]
    (axes,) = figures.loss_by_timestep({"a": 10 * stats}, 30).axes
    values, edges, _ = axes.patches[0].get_data()
    np.testing.assert_array_equal(values, [2.0, 5.0, np.nan])
    np.testing.assert_array_equal(edges, [0, 10, 20, 30])


def test_the_validation_loss_is_drawn_by_noise_level_where_a_run_has_one():
    held = {"validation_loss": 2.5, "validation_loss_by_level": [4.0, 1.0], "validation_error_by_level": [0.5, 0.1]}
    figure = figures.validation_loss({"new": [STATS[0] | held, STATS[1], STATS[2] | held], "old": STATS})
    new, old = figure.axes
    assert [line.get_xdata().tolist() for line in new.lines] == [[100, 300], [100, 300]]
    assert [line.get_ydata().tolist() for line in new.lines] == [[4, 4], [1, 1]]
    band = new.collections[0].get_paths()[0].get_extents()
    assert band.y1 - band.y0 == pytest.approx(2 * 1.96 * 0.5, rel=1e-3)
    assert not old.lines
    assert old.get_title() == "old: not recorded"


def test_the_last_validation_loss_is_drawn_against_the_noise_with_its_interval():
    held = {"validation_loss": 2.5, "validation_loss_by_level": [4.0, 1.0], "validation_error_by_level": [0.5, 0.1]}
    later = held | {"validation_loss_by_level": [3.0, 0.5]}
    (axes,) = figures.loss_by_level({"new": [STATS[0] | held, STATS[1] | later, STATS[2]], "old": STATS}).axes
    ((line, _, (bars,)),) = axes.containers
    assert line.get_xydata().tolist() == [[0.25, 3.0], [0.75, 0.5]]
    assert np.ptp([y for _, y in bars.get_segments()[0]]) == pytest.approx(2 * 1.96 * 0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("profile", "first", "scale"), [("paper", 157.4, 3.06), ("best", 1.0, 1.0)], ids=["ε, linear", "v, cosine"]
)
def test_an_error_of_the_network_grows_by_the_noise_in_an_image_of_epsilon_and_not_in_one_of_v(profile, first, scale):
    """σ = s / a = 157.4 at the start of the linear schedule, 105.9 a step of 40 later: 1 / (1 − 105.9 / 157.4) = 3.06."""
    p = load("cifar10", profile)
    left, right = (axes.lines[0].get_ydata() for axes in figures.image_errors(p.objective, 25).axes)
    assert len(left) == len(right) == 25
    assert [left[0], right[0], right[-1]] == pytest.approx([first, scale, 1.0], rel=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("schedule", "betas"), [("linear", (1e-4, 0.02)), ("scaled_linear", (8.5e-4, 0.012)), ("squaredcos_cap_v2", None)]
)
@pytest.mark.parametrize("zero", [False, True])
def test_the_figures_of_schedules_are_of_the_objectives_own(schedule, betas, prediction, zero):
    change = {"schedule": schedule, "betas": betas, "prediction": prediction, "zero_terminal_snr": zero}
    section = load("cifar10", "demo").objective.model_copy(update=change)
    path = objective(section, dtype=torch.float64)
    (line,) = figures.schedules({"one": section}).axes[0].lines
    alpha, _ = path.mix(torch.arange(section.timesteps))
    np.testing.assert_allclose(line.get_ydata(), alpha, rtol=1e-4, atol=1e-7)
    if zero and prediction == "epsilon":  # its error is infinite where noise is alone: refused in params
        return
    visited = times(path, Solver(sampler="ddim", steps=30, eta=0.0, spacing="trailing"))
    (a, s), (p, q) = path.mix(visited), path.target(visited)
    error, scale = (axes.lines[0].get_ydata() for axes in figures.image_errors(section, 30).axes)
    np.testing.assert_allclose(error, (s / (a * q - s * p).abs())[:-1], rtol=1e-3)
    np.testing.assert_allclose(scale, 1 / (1 - (s / a)[1:] / (s / a)[:-1]), rtol=1e-3)


def of_seed(seed, value):
    return {"metric": "fd_random", "value": value, "low": 0.9 * value, "high": 1.1 * value, "training": seed}


def test_a_line_joins_the_trainings_of_one_seed():
    kinds = {"a": [of_seed(0, 1.0), of_seed(1, 2.0)], "b": [of_seed(0, 3.0), of_seed(1, 4.0)]}
    (axes,) = charts.by_training(kinds).axes
    assert [box.lines[0].get_ydata().tolist() for box in axes.containers] == [[1, 3], [2, 4]]
    assert [box.get_label() for box in axes.containers] == ["seed 0", "seed 1"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b"]
    assert axes.get_ylabel() == charts.NAMES["fd_random"]


def test_a_kind_that_was_not_measured_leaves_the_figure_empty():
    (axes,) = charts.by_training({"a": [of_seed(0, 1.0)], "b": None}).axes
    assert list(axes.containers) == []


def test_lines_of_unlike_scales_and_lengths_each_stand_at_their_own():
    """A tick is a value, and a point of a line stands at its tick but for the step by which lines are set apart."""
    some = {"metric": "grain", "low": 0.0, "high": 2.0, "value": 1.0}
    lines = {"a": (1, 2, 5), "b": (2, 3)}
    by_scale = {name: [some | {"guidance": float(w)} for w in ws] for name, ws in lines.items()}
    weights = {1: "raw", 2: "power-0.05", 3: "power-0.1", 5: "power-0.25"}
    by_length = {name: [some | {"draw": {"weights": weights[w]}} for w in ws] for name, ws in lines.items()}
    ticks = (["1", "2", "3", "5"], ["0", "0.05", "0.1", "0.25"])
    for figure, names in zip(
        (charts.against_guidance(by_scale, ["grain"], []), charts.against_length(by_length, ["grain"], [])),
        ticks,
        strict=True,
    ):
        (axes,) = figure.axes
        assert [t.get_text() for t in axes.get_xticklabels()] == names
        found = [np.asarray(container.lines[0].get_xdata(), float) for container in axes.containers]
        np.testing.assert_allclose(found[0], [0, 1, 3], atol=1e-9)
        np.testing.assert_allclose(found[1], np.array([1, 2]) + 0.08, atol=1e-9)


BLOBS = np.array([[1.2, 0.5], [-1.1, 0.7], [0.1, -1.2]])
FLOW = Flow(mean=0.0, std=1.0)


def exactly(path, blobs, sd):
    """The best possible (x0, ε) of points (N, 2), by the score of their noisy density (Tweedie's formula)."""

    def denoise(x, t):
        a, s = path.mix(t)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            blob = torch.distributions.Normal(a * torch.from_numpy(blobs), (a**2 * sd**2 + s**2).sqrt())
            (score,) = torch.autograd.grad(blob.log_prob(x[:, None]).sum(-1).logsumexp(1).sum(), x)
        eps = -s * score
        return (x.detach() - s * eps) / a, eps

    return denoise


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize(
    "section",
    [FLOW, FLOW.model_copy(update={"shift": 3.0}), load("cifar10", "demo").objective, load("flows", "demo").objective],
    ids=["flow", "shifted", "cifar10", "cosine"],
)
def test_the_paths_of_a_plane_are_those_of_the_librarys_solver_with_the_exact_score(section, steps):
    path = objective(section, dtype=torch.float64)
    way = Solver(sampler="ddim", steps=steps, eta=0.0, spacing="trailing")
    visited, noise = times(path, way), np.random.default_rng(1).normal(size=(5, 2))
    np.testing.assert_allclose(levels(section, steps), torch.stack(path.mix(visited), 1), rtol=1e-4, atol=1e-6)
    states = walk(noise, torch.stack(path.mix(visited), 1).numpy(), BLOBS, 0.2)
    x = torch.from_numpy(noise)
    if visited[0] == 1:  # noise alone says nothing of x0 by its score: the mean of all images, by hand
        x0 = torch.from_numpy(BLOBS).mean(0)
        a, s = path.mix(visited[1])
        x, visited = a * x0 + s * x, visited[1:]
    (*_, (_, x)) = SOLVERS["ddim"](exactly(path, BLOBS, 0.2), x, visited, path) if len(visited) > 1 else ((0, x),)
    np.testing.assert_allclose(states[-1], x, atol=1e-9)


def test_one_step_of_a_straight_line_reaches_its_only_image_and_of_several_their_mean():
    noise = np.random.default_rng(2).normal(size=(5, 2))
    for section in (FLOW, load("flows", "demo").objective):
        for steps in (1, 3):
            ends = walk(noise, levels(section, steps), BLOBS[:1], 0.0)[-1]
            np.testing.assert_allclose(ends, np.tile(BLOBS[0], (5, 1)), atol=1e-9)
    np.testing.assert_allclose(walk(noise, levels(FLOW, 1), BLOBS, 0.1)[-1], np.tile(BLOBS.mean(0), (5, 1)), atol=1e-9)
    figure = figures.paths({"a": (FLOW, BLOBS), "b": (FLOW, BLOBS[:1])}, (1, 4), sd=0.1)
    assert [a.get_title() for a in figure.axes] == ["1 step", "4 steps", "", ""]
    assert [a.get_ylabel() for a in figure.axes] == ["a", "", "b", ""]
    assert [len(a.patches) for a in figure.axes] == [3, 3, 1, 1]
    assert {circle.radius for a in figure.axes for circle in a.patches} == {0.2}
    assert {len(a.lines[0].get_xdata()) for a in figure.axes} == {501}
    assert [len(a.lines[9].get_xdata()) for a in figure.axes] == [2, 5, 2, 5]


def test_against_steps_a_point_is_the_mean_over_trainings_where_there_are_several():
    again = {"value": 2.0, "low": 1.0, "high": 3.0, "spread": 0.1, "trainings": 3}
    of = [{**of_seed(0, 1.0), "draw": {"solver": {"steps": s}}} for s in (5, 1)]
    figure = charts.against_steps({"once": of, "thrice": [r | {"again": again} for r in of]}, ["fd_random"], [])
    once, thrice = figure.axes[0].containers
    assert [text.get_text() for of in figure.legends for text in of.get_texts()] == ["once", "thrice"]
    assert once.lines[0].get_ydata().tolist() == [1, 1]
    assert thrice.lines[0].get_ydata().tolist() == [2, 2]
    assert [line.get_segments()[0][:, 1].tolist() for line in thrice.lines[2]] == [[1, 3]]


def test_attention_has_a_line_per_training_and_one_name_per_kind_or_says_that_it_was_not_recorded():
    line = {"largest_logit": 8.0, "attention_entropy": 0.5}
    figure = figures.attention({"with": [[{"nimg": 10} | line, {"nimg": 20, "loss": 1.0}]] * 2, "without": [[]]})
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    assert [tuple(x.get_xdata()) for x in figure.axes[0].lines] == [(10,), (10,), ()]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["with", "without"]
    bare = figures.attention({"with": [[{"nimg": 10, "loss": 1.0}]]})
    assert [text.get_text() for text in bare.axes[0].texts] == ["This record has no statistics of attention."]
