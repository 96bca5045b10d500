"""Lanes: parts of a batch side by side give what the whole gives, and the same at every call."""

import threading

import pytest
import torch

from guidebook.conditioning.captions import NULL
from guidebook.conditioning.source import conditions
from guidebook.data.images import load
from guidebook.runs.run import open_run
from guidebook.runtime.lanes import Lanes
from guidebook.sampling.sampler import RunNetwork
from guidebook.training.loop import train
from guidebook.training.step import prepared, step_noise


@pytest.fixture
def threads():
    """Sets the number of threads; the test's end puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("of", "rows", "expected"),
    [(1, 8, 1), (2, 8, 2), (2, 1, 1), (6, 8, 3), (16, 8, 4), (16, 3, 2), (7, 8, 1), (2, 0, 1)],
)
def test_lanes_divide_the_threads_and_are_not_more_than_rows(of, rows, expected, threads):
    threads(of)
    assert Lanes(rows).n == expected


def test_a_gpu_has_one_lane(threads, monkeypatch):
    threads(4)
    monkeypatch.setattr("guidebook.runtime.lanes.world", lambda: type("World", (), {"device": torch.device("cuda")}))
    assert Lanes(8).n == 1


@pytest.mark.parametrize("rows", [4, 7])
def test_every_row_is_in_one_part_each_in_a_thread_of_its_own_with_its_share_of_the_cores(rows, threads):
    threads(4)
    together = threading.Barrier(4, timeout=30)  # broken if lanes came one after the other

    def part(of: slice):
        together.wait()
        return [*range(rows)[of]], torch.get_num_threads(), torch.is_grad_enabled(), threading.get_ident()

    with torch.no_grad(), Lanes(rows) as four:
        assert torch.get_num_threads() == 1
        parts, cores, grad, idents = zip(*four.map(part, rows), strict=True)
    assert [row for one in parts for row in one] == [*range(rows)]
    assert set(cores) == {1}
    assert not any(grad)
    assert len(set(idents)) == 4
    assert torch.get_num_threads() == 4
    assert all(four.map(lambda of: torch.is_grad_enabled(), 4))


def test_an_error_of_a_lane_is_raised_and_the_threads_are_put_back(threads):
    threads(2)

    def part(of: slice):
        if of.start:
            raise FloatingPointError("of the second")

    with pytest.raises(FloatingPointError, match="of the second"), Lanes(2) as two:
        two.map(part, 2)
    assert torch.get_num_threads() == 2
    assert two.map(lambda of: of.stop, 2) == [1, 2]
    assert two.map(lambda of: of.stop, 1) == [1]


@pytest.mark.parametrize("micro_batch", [None, 6])
def test_the_gradient_of_lanes_is_that_of_the_whole(micro_batch, tiny, threads):
    gradients, losses = [], []
    for n in (1, 2):
        threads(n)
        trainer = prepared(tiny.replace(train={"micro_batch": micro_batch, "precision": "fp32"}), load(tiny.data))
        noise = step_noise(trainer.params, 0, trainer.objective, trainer.space)
        losses.append(trainer._backward(trainer.feed.batch(0), noise))
        gradients.append(torch.cat([w.grad.flatten() for w in trainer.weights]))
    whole, parts = gradients
    assert not torch.equal(whole, parts)  # else there was one lane
    assert (whole - parts).norm() < 1e-4 * whole.norm()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


def test_a_training_in_lanes_is_bit_for_bit_the_same_again_beside_busy_threads(tiny, threads):
    threads(4)

    def weights() -> torch.Tensor:
        trainer = prepared(tiny, load(tiny.data))
        for _ in range(5):
            trainer.step()
        assert {"forward", "backward"} <= trainer.flush()["ms_by_part"].keys()
        return torch.cat([w.detach().flatten() for w in trainer.weights])

    quiet, done = weights(), threading.Event()
    busy = [threading.Thread(target=lambda: [None for _ in iter(done.is_set, True)]) for _ in range(3)]
    for one in busy:
        one.start()
    try:
        assert torch.equal(quiet, weights())
    finally:
        done.set()
        for one in busy:
            one.join()


def test_a_network_in_lanes_predicts_what_it_predicts_in_one(tiny, runs, threads):
    run = open_run(tiny)
    train(run)
    net, n = RunNetwork(run, "raw"), 5
    x, t = torch.randn(n, 1, 8, 8), torch.arange(n)
    cond = conditions(tiny).prompts(["A handwritten digit 3", NULL, "A handwritten digit 5", NULL, NULL])
    threads(1)
    with torch.no_grad():
        whole = net(x, t, cond)
        threads(2)
        parts = net(x, t, cond)
    assert not parts.requires_grad
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
