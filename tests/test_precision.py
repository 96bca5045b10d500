"""`train.precision: auto`: what it becomes, when, and what bears it."""

import os
import subprocess
import sys

import pytest
import torch

from guidebook.config.params import differences, load
from guidebook.runs.run import open_run, opened
from guidebook.runtime import precision
from guidebook.slurm import submit
from guidebook.slurm.site import load as load_cluster

AUTO = load("mnist", "smoke").replace(train={"precision": "auto"})


@pytest.mark.parametrize(("able", "becomes"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_resolved_when_a_run_is_opened_and_is_in_its_key_and_its_params(able, becomes, runs, monkeypatch):
    monkeypatch.setattr(precision, "native_bf16", lambda device=None: able)
    run = open_run(AUTO)
    assert differences(AUTO, run.params) == [("train.precision", "auto", becomes)]
    assert run.path.name.endswith(AUTO.replace(train={"precision": becomes}).training_key)
    assert opened(run.path).params == run.params
    assert open_run(AUTO).path == open_run(run.params).path == run.path
    assert run.variant("other", train={"lr": 0.5}).params.train.precision == becomes


@pytest.mark.parametrize("given", ["fp32", "bf16"])
def test_a_precision_that_is_given_stays(given, runs):
    assert open_run(AUTO.replace(train={"precision": given})).params.train.precision == given


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_job_of_slurm_is_given_the_precision_that_names_its_folder(gpus, runs, monkeypatch):
    monkeypatch.setattr(precision, "native_bf16", lambda device: False)
    cluster = load_cluster().model_copy(update={"gpus": str(gpus)})
    [task] = submit.tasks(["mnist"], "smoke", {"train.precision": "auto"}, None, cluster)
    assert f"train.precision={'bf16' if gpus else 'fp32'}" in task.words
    assert "train.precision=auto" not in task.words
    first, second = submit.tasks(["cifar10", "mnist"], "demo", {}, None, cluster)
    assert any("train.precision" in word for word in first.words)
    assert not any("train.precision" in word for word in second.words)  # whose profile says fp32


def test_a_cpu_whose_wide_instructions_are_hidden_has_no_native_bf16():
    code = "from guidebook.runtime.precision import native_bf16; print(native_bf16('cpu'))"
    env = os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bf16_is_native_on_a_cpu_with_the_instructions(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for avx, amx in ((True, False), (False, True), (False, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert precision.native_bf16("cpu") == (avx or amx)


@pytest.mark.parametrize("profile", ["demo", "smoke"])
@pytest.mark.parametrize(
    "experiment",
    [
        "backbones",
        "celeba",
        "cifar10",
        "ema",
        "flows",
        "grain",
        "imagenet100",
        "latents",
        "mnist",
        "samplers",
        "stable-diffusion",
        "sweep",
        "wikiart",
    ],
)
def test_no_demo_and_no_smoke_asks_for_what_a_laptop_is_slow_in(experiment, profile):
    assert load(experiment, profile).train.precision in ("auto", "fp32")
