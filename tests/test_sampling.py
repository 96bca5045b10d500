"""Sampling: against diffusers' pipelines, against what is known of Gaussians; and one seed, one image."""

import shutil
import time

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, UNet2DModel
from pydantic import ValidationError
from scipy.integrate import quad

from guidebook.conditioning.condition import Condition
from guidebook.conditioning.encoders import width
from guidebook.config import params as P
from guidebook.config.sampling import Guidance, Solver
from guidebook.config.schema import VP
from guidebook.diffusion import classifier
from guidebook.diffusion.guidance import Pair, clipped, conditional_or_not, denoiser, linear
from guidebook.diffusion.objective import objective
from guidebook.diffusion.solvers import SOLVERS, scheduler
from guidebook.models import build
from guidebook.runs import preemption
from guidebook.runs.preemption import Preempted
from guidebook.runs.run import open_run
from guidebook.runtime.seeds import generator
from guidebook.sampling.draw import draw, sample_set
from guidebook.sampling.explore import one_by_one
from guidebook.sampling.sampler import RunNetwork, Sampler, sample
from guidebook.sampling.spec import Draw, guide_run
from guidebook.training.loop import train

COSINE = VP(
    schedule="squaredcos_cap_v2", timesteps=1000, prediction="epsilon", min_snr_gamma=None, zero_terminal_snr=False
)
PATH = objective(COSINE, dtype=torch.float64)


def solver(sampler="ddpm", steps=7, eta=0.0, spacing="leading", v=0.0) -> Solver:
    return Solver(sampler=sampler, steps=steps, eta=eta, spacing=spacing, v=v)


DDIM = solver("ddim", 4)


def last(steps) -> torch.Tensor:
    *_, (_, x) = steps
    return x


def rngs(seeds: list[int]) -> list[torch.Generator]:
    return [generator(s, "image") for s in seeds]


@pytest.mark.parametrize(("sampler", "pipeline"), [("ddpm", DDPMPipeline), ("ddim", DDIMPipeline)])
def test_with_the_same_noise_it_ends_where_diffusers_pipeline_ends(sampler, pipeline):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 32), layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        ).eval()  # fmt: skip
    theirs = pipeline(model, scheduler(COSINE, solver(sampler)))
    theirs.set_progress_bar_config(disable=True)
    mended = {"use_clipped_model_output": True} if sampler == "ddim" else {}
    images = theirs(2, generator=rngs([3, 4]), num_inference_steps=7, output_type="np", **mended).images
    alone = denoiser(PATH, lambda x, t, _: model(x, t).sample, Condition())
    ours = last(sample(clipped(alone, PATH, -1, 1), PATH, solver(sampler), (1, 8, 8), rngs([3, 4])))
    seen = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)  # the pipeline's last lines
    torch.testing.assert_close(seen, torch.from_numpy(images), rtol=0, atol=1e-6)
    assert seen.std() > 0.1


def gaussian(mean: float, sd: float):
    """The best possible answer where every pixel is N(mean, sd²)."""

    def denoise(x, t):
        a, s = PATH.mix(t)
        eps = s * (x - a * mean) / (a**2 * sd**2 + s**2)
        return (x - s * eps) / a, eps

    return denoise


@pytest.mark.parametrize("w", [0, 1, 2, 3, 5])
def test_guided_samples_of_gaussians_have_the_closed_form_of_the_book(w):
    """x | c ~ N(c, σ²), x ~ N(0, τ²): the guided path ends in N(mean_w, sd_w²), see the chapter on guidance."""
    sigma, tau, c = 0.1, 0.2, 0.15
    rho = (sigma / tau) ** 2
    integral = quad(lambda u: 2 / (1 - u * u) ** (w / 2 + 1), 0, (1 - rho) ** 0.5)[0]  # r = 1 − u²
    mean, sd = c * w / 2 * rho ** (w / 2) / (1 - rho) ** 0.5 * integral, tau * (sigma / tau) ** w
    good, none = gaussian(c, sigma), gaussian(0, tau)
    guided = linear(Pair(good, none, lambda x, t: (good(x, t), none(x, t)), PATH), w)
    x = last(sample(guided, PATH, solver("ddim", 1000), (1, 48, 48), rngs([0, 1, 2, 3]))).double()
    n = x.numel()
    assert x.mean().item() == pytest.approx(mean, abs=4 * sd / n**0.5 + 0.01 * c)
    assert x.std().item() == pytest.approx(sd, rel=4 / (2 * n) ** 0.5 + 0.03)


@pytest.fixture(scope="module")
def unet():
    return build(P.load("mnist", "smoke")).eval()


def drawn(unet, seeds: list[int], sampler: str = "ddpm", w: float = 3.0) -> torch.Tensor:
    """A guided sample per seed, each with a caption of its own that goes with the seed."""
    wide = width(P.load("mnist", "smoke").text)
    cond = torch.stack([torch.randn(4, wide, generator=torch.Generator().manual_seed(s)) for s in seeds])
    both = Condition(tokens=cond), Condition(tokens=torch.zeros_like(cond))
    pair = conditional_or_not(PATH, unet, *both)
    return last(sample(clipped(linear(pair, w), PATH, -1, 1), PATH, solver(sampler, 5), (1, 8, 8), rngs(seeds)))


RANGE = {"rtol": 0, "atol": 2e-4}  # 1e-4 of the range [−1, 1]; other seeds differ by about 1


# A deterministic, guided, untrained network enlarges rounding most: there the batch shows at 1.5e-4 of the range.
@pytest.mark.parametrize(("sampler", "w"), [("ddpm", 1.0), ("ddpm", 3.0), ("ddim", 1.0)])
def test_an_image_does_not_depend_on_the_batch_it_is_drawn_in(unet, sampler, w):
    seeds = list(range(9))
    together = drawn(unet, seeds, sampler, w)
    torch.testing.assert_close(torch.cat([drawn(unet, [s], sampler, w) for s in seeds]), together, **RANGE)
    torch.testing.assert_close(
        torch.cat([drawn(unet, s, sampler, w) for s in (seeds[:4], seeds[4:])]), together, **RANGE
    )


@pytest.mark.parametrize(("w", "bound"), [(3.0, 1e-5), (30.0, 1e-4), (100.0, 1e-3)])
def test_what_the_batch_changes_grows_with_w(run, w, bound):
    """Ten times what was measured, of the range [−1, 1]."""
    sampler, index = Sampler(run, Draw.of(run.params, w, 9)), torch.arange(9)
    together, alone = last(sampler.steps(index)), torch.cat([last(sampler.steps(i[None])) for i in index])
    torch.testing.assert_close(alone, together, rtol=0, atol=2 * bound)
    assert (together[0] - together[1]).abs().max() > 100 * bound


def test_an_image_does_not_depend_on_the_images_beside_it(unet):
    torch.testing.assert_close(drawn(unet, [7, 1, 2])[0], drawn(unet, [50, 60, 7])[2], **RANGE)


def test_same_seed_same_image_other_seed_other_image(unet):
    a, b, c = (drawn(unet, [s, 5]) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert (a[0] - c[0]).abs().max() > 0.1
    assert (a[0] - a[1]).abs().max() > 0.1


@pytest.mark.parametrize("sampler", SOLVERS)
def test_sampling_leaves_the_global_random_state_alone(unet, sampler):
    before = torch.get_rng_state()
    drawn(unet, [0], sampler)
    assert torch.equal(torch.get_rng_state(), before)


# Sets of samples of a run


@pytest.fixture(scope="module")
def run(trained_runs, tmp_path_factory, tiny):
    with pytest.MonkeyPatch.context() as patch:
        runs = shutil.copytree(trained_runs, tmp_path_factory.mktemp("runs"), dirs_exist_ok=True)
        patch.setenv("GUIDEBOOK_RUNS", str(runs))
        patch.setattr(classifier, "STEPS", 20)  # that it guides is enough, how well is not asked here
        yield open_run(tiny)


def test_the_noise_of_an_image_is_the_same_at_every_guidance_scale(run, monkeypatch):
    monkeypatch.setattr(
        RunNetwork, "__call__", lambda self, x, t, cond: torch.zeros_like(x)
    )  # what is left is the noise
    images = [last(Sampler(run, Draw.of(run.params, w, 4)).steps(torch.arange(4))) for w in (0.0, 1.0, 5.0)]
    assert torch.equal(images[0], images[1])
    torch.testing.assert_close(images[1], images[2])


def test_a_set_does_not_depend_on_the_size_of_its_batches_or_on_its_own(run):
    whole = draw(run, 5.0, 20).images.int()
    small = type(run)(run.params.replace(sample={"batch": 3}), run.path / "other", recorded=False)
    small.path.mkdir()
    (small.path / "model").symlink_to(run.path / "model")
    parts, few = draw(small, 5.0, 20).images.int(), draw(run, 5.0, 10).images.int()
    assert (parts - whole).abs().max() <= 1  # rounding to a pixel value may fall either way
    assert (few - whole[:10]).abs().max() <= 1
    assert (whole[0] - whole[10]).abs().max() > 1  # the same class, another seed


def test_a_set_that_was_stopped_goes_on_with_its_next_part_to_equal_images(run, monkeypatch):
    whole, real, drawn = draw(run, 4.0, 20), Sampler.images, []
    small = type(run)(run.params.replace(sample={"batch": 7}), run.path / "stopped", recorded=False)
    small.path.mkdir()
    (small.path / "model").symlink_to(run.path / "model")

    def images(self, x):
        drawn.append(len(x))
        (small.path / "STOP").write_text("") if len(drawn) == 2 else None
        return real(self, x)

    monkeypatch.setattr(Sampler, "images", images)
    monkeypatch.setattr(preemption, "EVERY", 0)
    with pytest.raises(Preempted, match=f"stopped drawing {whole.folder.name}, part 2 of 3, saved"):
        draw(small, 4.0, 20)
    again = draw(small, 4.0, 20)
    assert drawn == [7, 7, 6]
    assert [f.name for f in again.folder.parent.iterdir()] == [whole.folder.name]
    assert (again.images.int() - whole.images.int()).abs().max() <= 1


def test_image_i_shows_class_i_modulo_their_number_and_of_a_prompt_its_class(run):
    assert draw(run, 1.0, 20).labels.tolist() == [*range(10)] * 2
    assert draw(run, 1.0, 3, prompt="A handwritten digit 4").labels.tolist() == [4] * 3
    assert draw(run, 1.0, 3, prompt="").labels.tolist() == [-1] * 3


WAYS = {
    "interval": Guidance(w=3.0, between=(0.5, 5.0)),
    "rescaled": Guidance(w=3.0, combine="rescaled", phi=0.7),
    "cfg-plus-plus": Guidance(w=3.0, combine="cfg-plus-plus"),
    "projected": Guidance(w=3.0, combine="projected", eta=0.0, norm=2.0, momentum=-0.5),
    "autoguidance": Guidance(w=3.0, against={"weights": "raw"}),
    "classifier": Guidance(w=3.0, combine="classifier"),
}


@pytest.mark.parametrize("name", WAYS)
def test_every_way_to_guide_draws_a_set_of_its_own_and_finds_it_again(run, name, monkeypatch):
    usual, other = draw(run, 3.0, 10, solver=DDIM), draw(run, WAYS[name], 10, solver=DDIM)
    assert other.folder != usual.folder
    assert name in other.name
    assert other.draw.guidance == WAYS[name]
    assert other.facts["clipped"] == usual.facts["clipped"] == [-1.0, 1.0]
    assert not torch.equal(other.images, usual.images)
    monkeypatch.setattr("guidebook.sampling.sampler.Sampler", lambda *_: pytest.fail("drawn again"))
    assert torch.equal(draw(run, WAYS[name], 10, solver=DDIM).images, other.images)


def test_autoguidance_leads_away_from_a_variant(run):
    against = {"run": "guide", "share": 0.5}
    train(guide_run(run, Guidance(w=1.0, against=against).against))
    at1, at2 = (draw(run, Guidance(w=w, against=against), 10) for w in (1.0, 2.0))
    assert torch.equal(at1.images, draw(run, 1.0, 10).images)
    assert not torch.equal(at2.images, at1.images)
    assert (at1.facts["evaluations"], at2.facts["evaluations"]) == (2, 4)


def test_a_list_of_ways_that_grows_by_a_row_draws_that_row_alone(run):
    rows = [{"name": "plain", "w": [1.0, 2.0], "weights": ["raw", "ema-0.9"]}]
    seen = []
    for grown in (rows, [*rows, {"name": "more", "w": [2.0], "between": [0.5, 50.0]}]):
        params = run.params.replace(sample={"methods": grown})
        assert open_run(params).path == run.path  # nothing is trained again
        each = [pair for method in params.sample.methods for pair in method.each()]
        sets = [draw(open_run(params), way, 10, weights=weights).folder for way, weights in each]
        seen.append({folder: folder.stat().st_mtime_ns for folder in sets})
    assert [len(s) for s in seen] == [4, 5]
    assert seen[1].items() >= seen[0].items()
    (new,) = seen[1].keys() - seen[0].keys()
    assert "interval" in new.name


def test_an_interval_of_autoguidance_with_another_ema_length_is_one_entry_of_the_params(run):
    """Its guide is the run itself with other weights, as they were; both are in the digest, and shown to a reader."""
    method = {"name": "own", "w": [2.0], "between": [0.5, 50.0], "against": {"weights": "raw", "at": 64}}
    ((entry, _),) = run.params.replace(sample={"methods": [method]}).sample.methods[0].each()
    found = draw(run, entry, 10)
    others = [entry.against.model_copy(update=u) for u in ({"weights": None}, {"at": None})]
    sets = [
        found,
        *(draw(run, entry.model_copy(update={"against": other}), 10) for other in others),
        draw(run, 2.0, 10),
    ]
    assert len({s.folder for s in sets}) == 4
    for i, a in enumerate(sets):
        assert not any(torch.equal(a.images, b.images) for b in sets[:i])
    assert found.draw.way() == ["0.5 < σ ≤ 50", "against raw, after 64 images"]
    assert found.facts["evaluations"] == 3  # of two noise levels the higher one is inside


@pytest.mark.parametrize(
    ("way", "per_step"),
    [(solver("ddpm", 3), 3), (solver("ddim", 3, spacing="trailing"), 3), (solver("dpmpp-2m", 3, spacing="linspace"), 3),
     (solver("unipc", 3, spacing="linspace"), 3), (solver("heun", 3, spacing="karras"), 5)],
    ids=lambda v: getattr(v, "sampler", ""),
)  # fmt: skip
def test_a_set_says_how_often_the_network_was_asked(run, way, per_step):
    assert draw(run, 1.0, 10, solver=way).facts["evaluations"] == per_step
    assert draw(run, 3.0, 10, solver=way).facts["evaluations"] == 2 * per_step


def test_an_interval_costs_nothing_outside_it(run):
    outside = draw(run, Guidance(w=3.0, between=(1e4 - 1, 1e4)), 10)
    assert torch.equal(outside.images, draw(run, 1.0, 10).images)
    assert outside.facts["evaluations"] == run.params.sample.steps


@pytest.mark.parametrize(
    ("way", "told"),
    [(WAYS["cfg-plus-plus"], {"solver": solver("ddim", 4, 0.5)}),
     (WAYS["cfg-plus-plus"], {"solver": solver("dpmpp-2m", 4)}),
     (WAYS["projected"], {"solver": solver("heun", 4)}),
     (WAYS["classifier"], {"solver": DDIM, "prompt": "A nine"})],
)  # fmt: skip
def test_what_would_mean_something_else_is_refused(tiny, way, told):
    with pytest.raises(ValueError, match=way.combine.partition("-")[0]):
        Draw.of(tiny, way, 2, **told)


def test_images_with_captions_of_their_own_take_no_prompt(tiny):
    with pytest.raises(ValueError, match="interpolation have captions of their own, not the prompt 'A nine'"):
        Draw.of(tiny, 1.0, 2, kind="interpolation", columns=2, prompt="A nine")


@pytest.mark.parametrize(
    ("entry", "match"),
    [({"combine": "rescaled"}, "rescaled.phi = None must be from 0 to 1"), ({"phi": 0.7}, "linear.phi = 0.7 is not taken"),
     ({"combine": "rescaled", "phi": 1.5}, "must be from 0 to 1"), ({"between": (5.0, 0.3)}, "low < high"),
     ({"against": {}}, "give run and share"), ({"against": {"run": "guide"}}, "give run and share"),
     ({"combine": "classifier", "against": {"weights": "raw"}}, "takes no against")],
)  # fmt: skip
def test_an_entry_that_is_not_complete_is_refused(entry, match):
    with pytest.raises(ValidationError, match=match):
        Guidance(w=2.0, **entry)


def test_the_time_of_an_image_holds_no_training_of_the_classifier_that_guides(run, monkeypatch, tmp_path):
    trained = []
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(tmp_path))  # where no classifier was trained yet
    monkeypatch.setattr(classifier, "_train", lambda *_: trained.append(time.sleep(3)))
    classifier.noisy_classifier.cache_clear()
    facts = draw(run, WAYS["classifier"], 10).facts
    classifier.noisy_classifier.cache_clear()  # what was not trained is for this test alone
    assert len(trained) == 1
    assert 0 < 10 * facts["seconds_per_image"] < 3


def test_images_drawn_one_by_one_are_those_of_the_set_and_each_has_its_time(run):
    alone, together = one_by_one(run, 2.0, 6), draw(run, 2.0, 6)
    assert torch.equal(alone.labels, together.labels)
    assert (alone.images.int() - together.images.int()).abs().max() <= 1  # batches round otherwise
    assert len(alone.facts["seconds"]) == 6
    assert min(alone.facts["seconds"]) > 0
    assert one_by_one(run, 2.0, 6).facts == alone.facts


# The specification


def test_the_runs_own_solver_named_once_more_is_the_same_set(run):
    assert draw(run, 2.0, 10, solver=run.params.sample.solver).folder == draw(run, 2.0, 10).folder
    assert draw(run, 2.0, 10, solver=DDIM).folder != draw(run, 2.0, 10).folder


def test_the_usual_variance_of_ddpm_is_not_named_and_another_makes_another_set(tiny):
    """So sets keep the names that they had before there was a choice."""
    usual, other = (Draw.of(tiny, 2.0, 10, solver=solver(v=v)) for v in (0.0, 0.5))
    assert "v" not in usual.json["solver"]
    assert (usual.solver_name, other.solver_name) == ("ddpm", "ddpm, v = 0.5")
    assert P.digest(usual.json) != P.digest(other.json)
    with pytest.raises(P.ParamsError, match=r"v = 0.5 is for sampler = ddpm, not ddim"):
        tiny.replace(sample={"sampler": "ddim", "v": 0.5})


def test_json_gives_the_same_draw_and_every_field_another_digest(tiny):
    usual = Draw.of(tiny, 2.0, 10)
    assert Draw.model_validate(usual.json) == usual
    others = [
        Draw.of(tiny, 3.0, 10), Draw.of(tiny, 2.0, 11), Draw.of(tiny, 2.0, 10, prompt=""), Draw.of(tiny, 2.0, 10, at=16),
        Draw.of(tiny, 2.0, 10, weights="raw"), Draw.of(tiny, 2.0, 10, kind="trajectory", columns=5),
        Draw.of(tiny.replace(sample={"seed": 1}), 2.0, 10), *(Draw.of(tiny, way, 10, solver=DDIM) for way in WAYS.values()),
        *(Draw.of(tiny, 2.0, 10, solver=DDIM.model_copy(update=u)) for u in ({}, {"steps": 5}, {"eta": 0.5}, {"spacing": "trailing"})),
    ]  # fmt: skip
    assert len({P.digest(d.json) for d in (usual, *others)}) == 1 + len(others)
    for d in others:
        assert Draw.model_validate(d.json) == d
        assert d.words() != usual.words() or d.n != 10 or d.guidance.w != 2 or d.weights != usual.weights


def test_a_process_that_is_given_json_finds_the_same_set(run):
    found = draw(run, WAYS["interval"], 10)
    assert sample_set(run, found.draw.json).folder == found.folder
