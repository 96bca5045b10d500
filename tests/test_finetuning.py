"""Fine-tuning: a training that begins with the weights of a pipeline's folder, or of another training."""

import shutil

import pipelines
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors.torch import load_file
from test_pipeline import same

from guidebook.conditioning.encoders import encode
from guidebook.config import pretrained
from guidebook.config.params import ParamsError, digest, load, origin
from guidebook.config.pretrained import SD, PretrainedMissing
from guidebook.data import images
from guidebook.export.pipeline import export
from guidebook.metrics.measure import psnr_records
from guidebook.models import initial
from guidebook.models.autoencoder import of_run
from guidebook.models.published import cost
from guidebook.runs.run import open_run
from guidebook.sampling.draw import draw
from guidebook.training.loop import train
from guidebook.training.model import load_model

SMOKE = load("stable-diffusion", "smoke")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """The folder of a StableDiffusionPipeline with random weights, all its parts at their smallest."""
    return pipelines.pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def tuned(pipeline, runs):
    """A run that begins with the pipeline's weights, trained for a few steps."""
    run = open_run(of(pipeline))
    train(run)
    return run


def of(pipeline, **changes):
    """Params of a fine-tuning of a folder, whose network predicts ε."""
    noise = {"prediction": "epsilon", "min_snr_gamma": None} | changes.pop("objective", {})
    whole = {"objective": noise} | {
        "text": {"encoder": str(pipeline), "tokens": 77},
        "sample": {"sampler": "dpmpp-2m", "spacing": "linspace", "steps": 4},
    }
    whole |= {"model": {"init": str(pipeline), "vae": str(pipeline)}, "train": {"precision": "fp32"}}
    return SMOKE.replace(**whole | changes)


def state(folder):
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def equal(network, folder) -> bool:
    return all(torch.equal(w, network.state_dict()[name]) for name, w in state(folder).items())


def test_every_part_is_the_pipelines_and_training_moves_the_network_alone(pipeline, tuned):
    pipe = StableDiffusionPipeline.from_pretrained(pipeline)
    captions = ["a ball", ""]
    tokens = pipe.tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = pipe.text_encoder(tokens.input_ids)[0]
    assert torch.equal(encode(tuned.params.text, captions), expected)
    assert all(torch.equal(w, pipe.vae.state_dict()[k]) for k, w in of_run(tuned.params).network.state_dict().items())
    assert equal(load_model(tuned, "init"), pipeline / "unet")
    raw, average = (load_model(tuned, name).state_dict() for name in ("raw", "ema-0.99"))
    begun = state(pipeline / "unet")
    assert not all(torch.equal(w, begun[name]) for name, w in raw.items())
    moved = tuned.provenance()["moved"]
    norm = sum(w.double().square().sum() for w in begun.values()) ** 0.5
    for name, weights in (("raw", raw), ("ema-0.99", average)):
        apart = sum((w.double() - begun[k].double()).square().sum() for k, w in weights.items()) ** 0.5
        assert moved[name] == pytest.approx(float(apart / norm), rel=1e-6)
    assert 0 < moved["ema-0.99"] < moved["ema-0.9"] < moved["raw"]  # a longer average has moved less


def test_its_images_are_those_of_a_stock_pipeline_made_of_it(tuned):
    same(tuned, DiffusionPipeline.from_pretrained(export(tuned)), 3.0)


def test_images_of_the_first_weights_are_those_of_the_folder_itself(pipeline, tuned):
    """With its own scheduler set as the run solves: DPM-Solver++ at linspace."""
    run = open_run(of(pipeline, sample={"weights": "init", "sampler": "dpmpp-2m", "spacing": "linspace", "steps": 4}))
    assert run.path == tuned.path
    pipe = StableDiffusionPipeline.from_pretrained(pipeline)
    pipe.scheduler = DiffusionPipeline.from_pretrained(export(tuned)).scheduler
    same(run, pipe, 2.0)


def test_the_same_files_elsewhere_are_the_same_run_and_other_files_another(pipeline, runs, tmp_path):
    other = shutil.copytree(pipeline, tmp_path / "other")
    first, second = open_run(of(pipeline)), open_run(of(other))
    assert first.params.model.init[-8:] == second.params.model.init[-8:]  # the same files
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.013"))
    third = open_run(of(other))
    assert third.params.model.init[-8:] != second.params.model.init[-8:]
    assert first.path == second.path != third.path
    with pytest.raises(PretrainedMissing, match="the folder holds other files now"):
        train(second)


def test_a_training_that_goes_on_from_another_trains_that_first_and_shares_its_autoencoder(runs):
    run = open_run(SMOKE)
    train(run)
    before = open_run(origin(run.params))
    assert before.trained
    assert (
        run.params.model.init
        == f"stable-diffusion/pretraining-smoke@{digest([before.params.training_key, 'ema-0.99'])}"
    )
    assert equal(initial(run.params), before.path / "model" / before.params.sample.weights)
    with pytest.raises(ParamsError, match=r"what it is made of has changed since, it is [0-9a-f]{8} now"):
        initial(run.params.replace(model={"init": "stable-diffusion/pretraining-smoke@00000000"}))
    assert run.provenance()["autoencoder"] == before.provenance()["autoencoder"]
    first, last = (draw(run, 2.0, 20, weights=name) for name in ("init", "raw"))
    (found,) = psnr_records(run, last, first)
    assert 5 < found["value"] < 60
    assert psnr_records(run, first, first)[0]["value"] == pytest.approx(78.1, abs=0.1)


def test_drawn_objects_of_some_kinds_are_those_of_the_whole_set():
    data = load("stable-diffusion", "pretraining").replace(data={"resolution": 8}).data
    some, every = images.load(data), images.load(data.model_copy(update={"subset": None}))
    for mine, whole in ((some.train, every.train), (some.test, every.test)):
        numbers = torch.tensor([every.classes.index(name) for name in some.classes])
        rows = torch.isin(whole.labels, numbers)
        assert torch.equal(mine.images, whole.images[rows])
        assert torch.equal(numbers[mine.labels], whole.labels[rows])


def test_the_published_parts_have_the_published_sizes():
    paper = load("stable-diffusion", "paper")
    assert cost(paper).parameters == 859_520_964
    assert cost(load("stable-diffusion", "pretraining")).parameters == 1_661_764


@pytest.mark.parametrize("file", [*pretrained.PARTS, "tokenizer/tokenizer.json"])
def test_a_file_that_is_missing_is_named(file, pipeline, tmp_path, runs):
    folder = shutil.copytree(pipeline, tmp_path / "cut")
    (folder / file).unlink()
    with pytest.raises(PretrainedMissing, match=f"is no folder of a pipeline: {file} is not there") as error:
        open_run(of(folder))
    assert "\n" not in str(error.value)
    assert not list(runs.glob("*/*"))


def test_words_may_be_kept_as_the_published_pipeline_keeps_them(pipeline, tmp_path):
    """As a vocabulary and its merges, both of them."""
    folder = shutil.copytree(pipeline, tmp_path / "older")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    assert pretrained.folder(str(folder)) is None
    (folder / "tokenizer" / "merges.txt").touch()
    assert pretrained.folder(str(folder)) == folder


def test_published_weights_that_are_not_here_are_refused_with_their_revision_and_no_stand_in(runs):
    with pytest.raises(PretrainedMissing, match=rf"^pipeline {SD} .*133a221b, model_index.json.*guidebook fetch"):
        open_run(load("stable-diffusion", "paper"))


WHOLE = {"text": {"encoder": SD}, "model": {"init": SD, "vae": SD, "channels": [32, 32, 32, 32]}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"model": {"init": "Nonesuch/v1"}},
            "model.init = 'Nonesuch/v1': it is CompVis/stable-diffusion-v1-4, the folder",
        ),
        ({"model": {"init": SD}}, f"model.init = '{SD}': all three name one pipeline"),
        ({"text": {"encoder": "./x"}}, "text.encoder = './x', model.vae = 'embedded'"),
        ({"model": {"init": None}, "sample": {"weights": "init"}}, "sample.weights = init are those of model.init"),
        ({"data": {"resolution": 32}} | WHOLE, "data.resolution = 32 must be a multiple of 64"),
        ({"data": {"resolution": 96}} | WHOLE, "halves its latents 3 times"),
    ],
)
def test_what_cannot_be_taken_together_is_refused(change, said):
    with pytest.raises(ParamsError) as error:
        SMOKE.replace(**change)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"num_heads": 4}}, "is of another network: attention_head_dim is 2, in model 4"),
        (
            {"objective": {"prediction": "v_prediction"}},
            "another objective: prediction_type is epsilon, in objective v_",
        ),
        ({"objective": {"betas": [0.001, 0.012]}}, "another objective: beta_start is 0.00085, in objective 0.001"),
    ],
)
def test_what_changes_no_shape_is_held_to_the_pipeline_too(change, said, pipeline, runs):
    whole = {"init": str(pipeline), "vae": str(pipeline)}
    changes = change | {"model": whole | change.get("model", {})}
    with pytest.raises(ParamsError, match=said):
        train(open_run(of(pipeline, **changes)))


def test_a_training_that_begins_with_weights_of_its_own_or_another_objective_is_nothing_to_go_on_from(runs):
    for change in ({"model": {"init": "stable-diffusion/smoke"}}, {"objective": {"timesteps": 500}}):
        with pytest.raises(ParamsError, match="begins with weights of its own, or has another objective"):
            open_run(SMOKE.replace(**change))


def test_weights_of_another_network_are_refused(pipeline, runs):
    wide = {"init": str(pipeline), "vae": str(pipeline), "channels": [32, 64]}
    with pytest.raises(
        ParamsError,
        match=r"model.init = .* is of another network: block_out_channels is \[32, 32\], in model \[32, 64\]$",
    ):
        train(open_run(of(pipeline, model=wide)))
