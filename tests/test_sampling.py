"""Sampling: against diffusers, against the equations, against what is known of Gaussians; and one seed, one image."""

import time

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, UNet2DModel
from scipy.integrate import quad

from guidebook.conditioning.encoders import WIDTH
from guidebook.config import params as P
from guidebook.config.schema import VP, Method, Solver
from guidebook.diffusion import classifier
from guidebook.diffusion.guidance import classifier_free
from guidebook.diffusion.objective import SAMPLERS, process, scheduler
from guidebook.models import build
from guidebook.runs.run import open_run
from guidebook.runtime.rng import generator
from guidebook.sampling.draw import draw
from guidebook.sampling.sampler import Sampler, sample
from guidebook.training.loop import train

PLAIN = {"timesteps": 1000, "prediction": "epsilon", "min_snr_gamma": None, "zero_terminal_snr": False}
COSINE = VP(schedule="squaredcos_cap_v2", **PLAIN)
LINEAR = VP(schedule="linear", betas=(1e-4, 0.02), **PLAIN)
ABAR = scheduler(COSINE).alphas_cumprod


def gaussian(mean: float, sd: float, abar: torch.Tensor = ABAR):
    """The best possible ε where every pixel is N(mean, sd²)."""

    def denoise(x, t):
        a = abar[t]
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * sd**2 + 1 - a)

    return denoise


def walk(denoise, noise_scheduler, shape, seeds, steps, eta=0.0):
    """`sample` in so many steps."""
    noise_scheduler.set_timesteps(steps)
    return sample(denoise, noise_scheduler, shape, seeds, eta)


def last(steps) -> torch.Tensor:
    *_, (_, x) = steps
    return x


@pytest.mark.parametrize(("sampler", "pipeline"), [("ddpm", DDPMPipeline), ("ddim", DDIMPipeline)])
def test_with_the_same_noise_it_ends_where_diffusers_pipeline_ends(sampler, pipeline):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32, 32), layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        ).eval()  # fmt: skip
    seeds = [3, 4]
    theirs = pipeline(model, scheduler(COSINE, sampler))
    theirs.set_progress_bar_config(disable=True)
    rngs = [generator(s, "image") for s in seeds]
    clipped = {"use_clipped_model_output": True} if sampler == "ddim" else {}
    images = theirs(2, generator=rngs, num_inference_steps=7, output_type="np", **clipped).images
    ours = last(walk(lambda x, t: model(x, t).sample, scheduler(COSINE, sampler), (1, 8, 8), seeds, 7))
    seen = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)  # the pipeline's last lines
    torch.testing.assert_close(seen, torch.from_numpy(images), rtol=0, atol=1e-6)
    assert seen.std() > 0.1


@pytest.mark.parametrize("diffusion", [COSINE, LINEAR], ids=["cosine", "linear"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("steps", [10, 50])
def test_every_state_is_that_of_the_published_equations(diffusion, sampler, steps):
    """Ho et al. 2020, eq. 7, and Song et al. 2021, eq. 12, in double precision, with the noise each seed gives."""
    noise, seeds, shape = scheduler(diffusion, sampler), [0, 1, 2], (1, 4, 4)
    abar = noise.alphas_cumprod.double()
    denoise = gaussian(0.2, 0.15, abar)
    rngs = [generator(s, "image") for s in seeds]
    x = torch.stack([torch.randn(shape, generator=rng) for rng in rngs]).double()
    grid = list(range(1000 - 1000 // steps, -1, -1000 // steps))
    ours = walk(gaussian(0.2, 0.15, noise.alphas_cumprod), noise, shape, seeds, steps)
    for t, s, (seen, state) in zip(grid, [*grid[1:], None], ours, strict=True):
        eps, at, a_s = denoise(x, t), abar[t], torch.tensor(1.0) if s is None else abar[s]
        x0 = ((x - (1 - at).sqrt() * eps) / at.sqrt()).clamp(-1, 1)
        eps = (x - at.sqrt() * x0) / (1 - at).sqrt()  # the noise that goes with a clipped x0
        if sampler == "ddim":
            x = a_s.sqrt() * x0 + (1 - a_s).sqrt() * eps
        else:
            a = at / a_s
            x = (a_s.sqrt() * (1 - a) * x0 + a.sqrt() * (1 - a_s) * x) / (1 - at)
            if s is not None:
                z = torch.stack([torch.randn(shape, generator=rng) for rng in rngs])
                x = x + ((1 - a_s) / (1 - at) * (1 - a)).sqrt() * z
        assert seen == t
        torch.testing.assert_close(state.double(), x, rtol=0, atol=2e-5)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize(("mean", "sd"), [(0.2, 0.15), (-0.4, 0.1)])
def test_samples_of_a_gaussian_have_its_mean_and_variance(sampler, mean, sd):
    x = last(walk(gaussian(mean, sd), scheduler(COSINE, sampler), (1, 96, 96), [0, 1, 2, 3], 1000)).double()
    n = x.numel()
    assert x.mean().item() == pytest.approx(mean, abs=4 * sd / n**0.5)
    finite = {"ddpm": 0.02, "ddim": 0.05}[sampler]  # the last steps of a thousand are coarse for so narrow a Gaussian
    assert x.var().item() == pytest.approx(sd**2, rel=4 * (2 / n) ** 0.5 + finite)


def exact(x: torch.Tensor, a: torch.Tensor, mean: float, sd: float) -> torch.Tensor:
    """Where the deterministic path of a Gaussian from x at signal a ends: its distance in deviations is kept."""
    a = a.double()
    return mean + sd * (x - a * mean) / (a**2 * sd**2 + 1 - a**2).sqrt()


FORWARD = process(LINEAR)


def gaussian_at(mean: float, sd: float):
    """`gaussian` at any timestep, whole or not."""

    def denoise(x, t):
        a, s = FORWARD.at(t)
        return s * (x - a * mean) / (a**2 * sd**2 + s**2)

    return denoise


def free(noise_scheduler):
    """The same scheduler without its clip, which theory does not know."""
    if "clip_sample" in noise_scheduler.config:
        return type(noise_scheduler).from_config(noise_scheduler.config, clip_sample=False)
    return noise_scheduler


def error(sampler: str, spacing: str, steps: int) -> float:
    """Root mean square distance from the end of a Gaussian's deterministic path."""
    mean, sd, noise = 0.2, 0.5, free(scheduler(LINEAR, sampler, spacing))
    noise.set_timesteps(steps)
    a, _ = FORWARD.at(noise.timesteps[0])
    start = torch.randn((1, 8, 8), generator=generator(0, "image")).double() * float(noise.init_noise_sigma)
    start = start * a if sampler == "heun" else start  # which walks x / a
    found = last(sample(gaussian_at(mean, sd), noise, (1, 8, 8), [0]))[0].double()
    return (found - exact(start, a, mean, sd)).square().mean().sqrt().item()


@pytest.mark.parametrize(
    ("sampler", "spacing", "order"),
    [("ddim", "leading", 1), ("dpmpp-2m", "linspace", 2), ("unipc", "linspace", 2), ("heun", "linspace", 2),
     ("heun", "karras", 2)],
)  # fmt: skip
def test_the_error_falls_with_the_order_of_the_solver(sampler, spacing, order):
    """Four times the steps, 4^order times less of it; timesteps that are rounded to whole ones end the law beyond."""
    gain = error(sampler, spacing, 8) / error(sampler, spacing, 32)
    assert gain > 0.85 * 4**order
    assert order > 1 or gain < 1.2 * 4


@pytest.mark.parametrize(("sampler", "spacing"), [("dpmpp-2m", "linspace"), ("unipc", "linspace")])
def test_a_solver_of_second_order_needs_fewer_steps(sampler, spacing):
    assert error(sampler, spacing, 16) < 0.6 * error("ddim", "leading", 16)


def test_ddim_with_all_its_noise_is_ddpm():
    """η = 1 takes DDPM's steps with DDPM's noise (Song et al. 2021, section 4.1)."""
    denoise = gaussian(0.2, 0.15)
    ddpm, ddim = (walk(denoise, scheduler(COSINE, s), (1, 8, 8), [0, 1], 20, eta=1.0) for s in ("ddpm", "ddim"))
    for (_, a), (_, b) in list(zip(ddpm, ddim, strict=True))[:-1]:  # in the last step DDIM still adds its noise
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    quiet = last(walk(denoise, scheduler(COSINE, "ddim"), (1, 8, 8), [0, 1], 20))
    assert (quiet - b).abs().max() > 0.05


@pytest.mark.parametrize("w", [0, 1, 2, 3, 5])
def test_guided_samples_of_gaussians_have_the_closed_form_of_the_book(w):
    """x | c ~ N(c, σ²), x ~ N(0, τ²): the guided path ends in N(mean_w, sd_w²), see the chapter on guidance."""
    sigma, tau, c = 0.1, 0.2, 0.15
    rho = (sigma / tau) ** 2
    integral = quad(lambda u: 2 / (1 - u * u) ** (w / 2 + 1), 0, (1 - rho) ** 0.5)[0]  # r = 1 − u²
    mean, sd = c * w / 2 * rho ** (w / 2) / (1 - rho) ** 0.5 * integral, tau * (sigma / tau) ** w

    def model(x, t, cond):
        share = cond[:, 0, 0][:, None, None, None]  # 1 for the caption, 0 for none
        return share * gaussian(c, sigma)(x, t) + (1 - share) * gaussian(0, tau)(x, t)

    denoise = classifier_free(model, torch.ones(4, 1, 1), torch.zeros(4, 1, 1), w)
    noise = free(scheduler(COSINE, "ddim"))
    x = last(walk(denoise, noise, (1, 48, 48), [0, 1, 2, 3], 1000)).double()
    n = x.numel()
    assert x.mean().item() == pytest.approx(mean, abs=4 * sd / n**0.5 + 0.01 * c)
    assert x.std().item() == pytest.approx(sd, rel=4 / (2 * n) ** 0.5 + 0.03)


def test_the_clip_keeps_strongly_guided_pixels_in_range():
    """Aimed at is a mean of c / (1 − σ²/τ²) = 1.6, out of the range of pixels."""

    def model(x, t, cond):
        return torch.where(cond[:, :1, :1, None] > 0, gaussian(0.8, 0.5)(x, t), gaussian(0, 0.7)(x, t))

    denoise = classifier_free(model, torch.ones(2, 1, 1), torch.zeros(2, 1, 1), 20.0)
    clipped, unclipped = (
        last(walk(denoise, s, (1, 16, 16), [0, 1], 100)) for s in (scheduler(COSINE), free(scheduler(COSINE)))
    )
    assert clipped.abs().max() <= 1
    assert unclipped.mean() > 1.3


@pytest.fixture(scope="module")
def unet():
    return build(P.load("mnist", "smoke")).eval()


def drawn(unet, seeds: list[int], sampler: str = "ddpm", w: float = 3.0) -> torch.Tensor:
    """A guided sample per seed, each with a caption of its own that goes with the seed."""
    cond = torch.stack([torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(s)) for s in seeds])
    denoise = classifier_free(lambda x, t, c: unet(x, t, c, return_dict=False)[0], cond, torch.zeros_like(cond), w)
    return last(walk(denoise, scheduler(COSINE, sampler), (1, 8, 8), seeds, 5))


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


def test_an_image_does_not_depend_on_the_images_beside_it(unet):
    torch.testing.assert_close(drawn(unet, [7, 1, 2])[0], drawn(unet, [50, 60, 7])[2], **RANGE)


def test_same_seed_same_image_other_seed_other_image(unet):
    a, b, c = (drawn(unet, [s, 5]) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert (a[0] - c[0]).abs().max() > 0.1
    assert (a[0] - a[1]).abs().max() > 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_leaves_the_global_random_state_alone(unet, sampler):
    before = torch.get_rng_state()
    drawn(unet, [0], sampler)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def run(runs, tiny):
    opened = open_run(tiny)
    train(opened)
    return opened


def test_the_noise_of_an_image_is_the_same_at_every_guidance_scale(run, monkeypatch):
    sampler = Sampler(run, "raw")
    monkeypatch.setattr(Sampler, "__call__", lambda self, x, t, cond: torch.zeros_like(x))  # what is left is the noise
    index = torch.arange(4)
    images = {w: last(sampler.steps(w, index, None)) for w in (0.0, 1.0, 5.0)}
    assert torch.equal(images[0.0], images[1.0])
    assert torch.equal(images[1.0], images[5.0])


def test_a_set_does_not_depend_on_the_size_of_its_batches_or_on_its_own(run):
    whole = draw(run, 5.0, 20).images.int()
    small = type(run)(run.params.replace(sample={"batch": 3}), run.path / "other", recorded=False)
    small.path.mkdir()
    (small.path / "model").symlink_to(run.path / "model")
    parts, few = draw(small, 5.0, 20).images.int(), draw(run, 5.0, 10).images.int()
    assert (parts - whole).abs().max() <= 1  # rounding to a pixel value may fall either way
    assert (few - whole[:10]).abs().max() <= 1
    assert (whole[0] - whole[10]).abs().max() > 1  # the same class, another seed


def test_image_i_shows_class_i_modulo_their_number(run):
    assert draw(run, 1.0, 20).labels.tolist() == [*range(10)] * 2


DDIM = Solver(sampler="ddim", steps=4, eta=0.0, spacing="leading")
METHODS = [
    Method(name="interval", guidance=(3.0,), settings={"low": 0.5, "high": 5.0}),
    Method(name="rescaled", guidance=(3.0,), settings={"phi": 0.7}),
    Method(name="cfg-plus-plus", guidance=(3.0,)),
    Method(name="projected", guidance=(3.0,), settings={"eta": 0.0, "norm": 2.0, "momentum": -0.5}),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_draws_a_set_of_its_own_and_finds_it_again(run, method, monkeypatch):
    usual, other = draw(run, 3.0, 10, solver=DDIM), draw(run, 3.0, 10, solver=DDIM, method=method)
    assert other.folder != usual.folder
    assert other.facts["method"] == method.name
    assert not torch.equal(other.images, usual.images)
    monkeypatch.setattr("guidebook.sampling.draw.Sampler", lambda *_: pytest.fail("drawn again"))
    assert torch.equal(draw(run, 3.0, 10, solver=DDIM, method=method).images, other.images)


def test_autoguidance_leads_away_from_another_run(run):
    guide = run.variant("guide", train={"epochs": 1})
    train(guide)
    method = Method(name="autoguidance", guidance=(2.0,), settings={"share": 0.5})
    at1, at2 = (draw(run, w, 10, method=method, guide=guide) for w in (1.0, 2.0))
    assert torch.equal(at1.images, draw(run, 1.0, 10).images)
    assert not torch.equal(at2.images, at1.images)
    assert (at1.facts["evaluations"], at2.facts["evaluations"]) == (2, 4)


@pytest.mark.parametrize(
    ("solver", "per_step"),
    [(("ddpm", 3, "leading"), 3), (("ddim", 3, "trailing"), 3), (("dpmpp-2m", 3, "linspace"), 3),
     (("unipc", 3, "linspace"), 3), (("heun", 3, "karras"), 5)],
)  # fmt: skip
def test_a_set_says_how_often_the_network_was_asked(run, solver, per_step):
    sampler, steps, spacing = solver
    told = Solver(sampler=sampler, steps=steps, eta=0.0, spacing=spacing)
    assert draw(run, 1.0, 10, solver=told).facts["evaluations"] == per_step
    assert draw(run, 3.0, 10, solver=told).facts["evaluations"] == 2 * per_step


def test_an_interval_costs_nothing_outside_it(run):
    method = Method(name="interval", guidance=(3.0,), settings={"low": 1e4 - 1, "high": 1e4})
    outside = draw(run, 3.0, 10, method=method)
    assert torch.equal(outside.images, draw(run, 1.0, 10).images)
    assert outside.facts["evaluations"] == run.params.sample.steps


@pytest.mark.parametrize(
    ("method", "solver", "prompt"),
    [(METHODS[2], Solver(sampler="ddim", steps=4, eta=0.5, spacing="leading"), None),
     (METHODS[2], Solver(sampler="dpmpp-2m", steps=4, eta=0.0, spacing="linspace"), None),
     (METHODS[3], Solver(sampler="heun", steps=4, eta=0.0, spacing="karras"), None),
     (Method(name="classifier", guidance=(1.0,)), DDIM, "A nine"),
     (Method(name="autoguidance", guidance=(1.0,), settings={"share": 0.5}), DDIM, None)],
)  # fmt: skip
def test_what_would_mean_something_else_is_refused(run, method, solver, prompt):
    with pytest.raises(ValueError, match=method.name.partition("-")[0]):
        Sampler(run, "raw").steps(2.0, torch.arange(2), prompt, solver, method)


@pytest.mark.parametrize("method", [None, METHODS[0]], ids=["classifier-free", "interval"])
def test_a_guide_that_would_not_guide_is_refused(run, method):
    with pytest.raises(ValueError, match="autoguidance needs a guide, and no other method takes one") as caught:
        draw(run, 2.0, 10, method=method, guide=run)
    assert str(caught.value).endswith(f"this is {method.name if method else 'classifier-free'} guidance with a guide")
    assert not list(run.path.glob("samples/*"))


def test_the_time_of_an_image_holds_no_training_of_the_classifier_that_guides(run, monkeypatch):
    trained = []
    monkeypatch.setattr(classifier, "_train", lambda *_: trained.append(time.sleep(3)))
    classifier._found.cache_clear()
    method = Method(name="classifier", guidance=(2.0,))
    facts = draw(run, 2.0, 10, method=method).facts
    classifier._found.cache_clear()  # what was not trained is for this test alone
    assert len(trained) == 1
    assert 0 < 10 * facts["seconds_per_image"] < 3


def test_the_runs_own_solver_named_once_more_is_the_same_set(run):
    own = Solver(**{k: getattr(run.params.sample, k) for k in Solver.model_fields})
    assert draw(run, 2.0, 10, solver=own).folder == draw(run, 2.0, 10).folder
    assert draw(run, 2.0, 10, solver=DDIM).folder != draw(run, 2.0, 10).folder
