"""Sampling: against diffusers, against the equations, against what is known of Gaussians; and one seed, one image."""

import itertools

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from scipy.integrate import quad

from guidebook import params as P
from guidebook.diffusion import scheduler
from guidebook.guidance import classifier_free
from guidebook.models.unet import build
from guidebook.params import Diffusion
from guidebook.rng import generator
from guidebook.run import open_run
from guidebook.sampling import Sampler, draw, sample
from guidebook.text import WIDTH
from guidebook.training import train

COSINE = Diffusion(schedule="squaredcos_cap_v2", timesteps=1000)
LINEAR = Diffusion(schedule="linear", timesteps=1000)
ABAR = scheduler(COSINE).alphas_cumprod


def gaussian(mean: float, sd: float, abar: torch.Tensor = ABAR):
    """The best possible ε where every pixel is N(mean, sd²)."""

    def denoise(x, t):
        a = abar[t]
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * sd**2 + 1 - a)

    return denoise


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
    images = theirs(2, generator=rngs, num_inference_steps=7, output_type="np").images
    ours = last(sample(lambda x, t: model(x, t).sample, scheduler(COSINE, sampler), (1, 8, 8), seeds, 7))
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
    ours = sample(gaussian(0.2, 0.15, noise.alphas_cumprod), noise, shape, seeds, steps)
    for t, s, (seen, state) in zip(grid, [*grid[1:], None], ours, strict=True):
        eps, at, a_s = denoise(x, t), abar[t], torch.tensor(1.0) if s is None else abar[s]
        x0 = ((x - (1 - at).sqrt() * eps) / at.sqrt()).clamp(-1, 1)
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
    x = last(sample(gaussian(mean, sd), scheduler(COSINE, sampler), (1, 96, 96), [0, 1, 2, 3], 1000)).double()
    n = x.numel()
    assert x.mean().item() == pytest.approx(mean, abs=4 * sd / n**0.5)
    finite = {"ddpm": 0.02, "ddim": 0.05}[sampler]  # the last steps of a thousand are coarse for so narrow a Gaussian
    assert x.var().item() == pytest.approx(sd**2, rel=4 * (2 / n) ** 0.5 + finite)


def exact(x: torch.Tensor, t: int, mean: float, sd: float) -> torch.Tensor:
    """Where the deterministic path of a Gaussian from x at timestep t ends: its distance in deviations is kept."""
    a = ABAR[t].double()
    return mean + sd * (x - a.sqrt() * mean) / (a * sd**2 + 1 - a).sqrt()


def test_ddim_converges_in_first_order():
    mean, sd, errors = 0.2, 0.15, []
    start = torch.randn((1, 8, 8), generator=generator(0, "image")).double()
    for steps in (20, 40, 80, 160):
        noise = scheduler(COSINE, "ddim")
        noise.set_timesteps(steps)
        truth = exact(start, int(noise.timesteps[0]), mean, sd)
        found = last(sample(gaussian(mean, sd), noise, (1, 8, 8), [0], steps))[0].double()
        errors.append((found - truth).square().mean().sqrt().item())
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert all(1.7 < r < 2.3 for r in ratios), (errors, ratios)


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
    noise = DDIMScheduler.from_config(scheduler(COSINE, "ddim").config, clip_sample=False)  # the theory clips nothing
    x = last(sample(denoise, noise, (1, 48, 48), [0, 1, 2, 3], 1000)).double()
    n = x.numel()
    assert x.mean().item() == pytest.approx(mean, abs=4 * sd / n**0.5 + 0.01 * c)
    assert x.std().item() == pytest.approx(sd, rel=4 / (2 * n) ** 0.5 + 0.03)


def test_the_clip_keeps_strongly_guided_pixels_in_range():
    """Aimed at is a mean of c / (1 − σ²/τ²) = 1.6, out of the range of pixels."""

    def model(x, t, cond):
        return torch.where(cond[:, :1, :1, None] > 0, gaussian(0.8, 0.5)(x, t), gaussian(0, 0.7)(x, t))

    denoise = classifier_free(model, torch.ones(2, 1, 1), torch.zeros(2, 1, 1), 20.0)
    free = DDPMScheduler.from_config(scheduler(COSINE).config, clip_sample=False)
    clipped, unclipped = (last(sample(denoise, s, (1, 16, 16), [0, 1], 100)) for s in (scheduler(COSINE), free))
    assert clipped.abs().max() <= 1
    assert unclipped.mean() > 1.3


@pytest.fixture(scope="module")
def unet():
    return build(P.load("mnist", "smoke")).eval()


def drawn(unet, seeds: list[int], sampler: str = "ddpm", w: float = 3.0) -> torch.Tensor:
    """A guided sample per seed, each with a caption of its own that goes with the seed."""
    cond = torch.stack([torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(s)) for s in seeds])
    denoise = classifier_free(lambda x, t, c: unet(x, t, c, return_dict=False)[0], cond, torch.zeros_like(cond), w)
    return last(sample(denoise, scheduler(COSINE, sampler), (1, 8, 8), seeds, 5))


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


def test_sampling_leaves_the_global_random_state_alone(unet):
    before = torch.get_rng_state()
    drawn(unet, [0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def run(runs, tiny):
    opened = open_run(tiny)
    train(opened)
    return opened


def test_the_noise_of_an_image_is_the_same_at_every_guidance_scale(run):
    sampler = Sampler(run, "raw")
    sampler._model = lambda x, t, cond: torch.zeros_like(x)  # what is left is the noise, first and added
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
