"""Several processes at one run: the same images, noise and captions as one, and nobody left waiting when one is lost."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from guidebook.config.params import ParamsError
from guidebook.metrics.measure import measure, measure_real
from guidebook.runs import launch
from guidebook.runs.launch import ProcessFailed
from guidebook.runs.preemption import Preempted
from guidebook.runs.run import open_run, opened
from guidebook.sampling.draw import draw
from guidebook.sampling.sets import stored
from guidebook.training import checkpoint
from guidebook.training.loop import train

# Both are launchers of torch's elastic agent. They meet in a file here: by default the agent listens to the whole network.
MEET = ["--rdzv-backend=c10d", "--rdzv-conf=store_type=file"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *MEET, "--rdzv-endpoint=meeting"]
ACCELERATE = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes=2",
    "--num_machines=1",
]
ACCELERATE += [
    *(word.replace("rdzv-", "rdzv_") for word in MEET),
    "--main_process_ip=127.0.0.1",
    "--main_process_port=29511",
]
ACCELERATE += ["--mixed_precision=no", "--dynamo_backend=no"]


@pytest.fixture(scope="module")
def params(tiny):
    """44 steps in parts of 3 images, with a checkpoint after every 12."""
    train = {"epochs": 11, "checkpoint_every": 3, "caption_dropout": 0.2, "micro_batch": 3}
    return tiny.replace(train=train, sample={"batch": 7})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    yield
    torch.set_num_threads(before[0])
    os.environ.pop("OMP_NUM_THREADS") if before[1] is None else None


@pytest.fixture(autouse=True)
def no_pool():
    yield
    for size in list(launch._running):
        launch._running.pop(size).close()


@pytest.fixture(scope="module")
def of_one(params, tmp_path_factory, shared):
    """The run of one process, with samples and their measurement."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDEBOOK_RUNS", str(shared(tmp_path_factory.mktemp("one"))))
        run = open_run(params)
        train(run)
        measure(run, draw(run, 5.0, 30))
        measure_real(run)
        return run


def losses(run) -> torch.Tensor:
    """What the statistics say of the loss, in all and by timestep bin."""
    lines = run.stats()
    return torch.tensor(
        [[row["loss"], *(v or 0 for v in row["loss_by_timestep"])] for row in lines], dtype=torch.float64
    )


def agree(a, b) -> bool:
    """Losses alike up to the order of floating-point sums, which Adam makes larger step by step."""
    x, y = losses(a), losses(b)
    return torch.allclose(x[:1], y[:1], rtol=1e-5) and torch.allclose(x, y, rtol=2e-3)


def in_two(params, launcher, tmp_path) -> subprocess.CompletedProcess:
    """`guidebook train` in two processes of a launcher."""
    (tmp_path / "params.yml").write_text(params.yaml())
    env = os.environ | {"GUIDEBOOK_RUNS": str(tmp_path / "runs"), "GLOO_SOCKET_IFNAME": "lo"}
    env |= {"GUIDEBOOK_STORE": f"file://{tmp_path}/store", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    words = [*launcher, "-m", "guidebook", "train", "params.yml"]
    return subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)


def test_two_processes_train_draw_and_measure_as_one_does(params, of_one, runs):
    run = open_run(params.replace(train={"processes": 2}))
    assert run.path.name == of_one.path.name  # how many share the work is no part of what is learnt
    train(run)
    assert agree(run, of_one)
    assert run.provenance()["processes"] == 2
    assert [row["nimg"] for row in run.stats()] == [row["nimg"] for row in of_one.stats()]

    (runs / "judges").symlink_to(of_one.path.parents[1] / "judges")
    shutil.rmtree(run.path / "model")
    shutil.copytree(of_one.path / "model", run.path / "model")  # from here on with the same weights
    images = draw(run, 5.0, 30)
    assert torch.equal(images.images, stored(of_one.path / "samples" / images.folder.name).images)
    keep = ("metric", "n", "extractor", "reference")
    for found, expected in zip(
        measure(run, images) + measure_real(run),
        of_one.metrics(set=images.name) + of_one.metrics(set="test split"),
        strict=True,
    ):
        for field in ("value", "low", "high"):
            assert found.pop(field) == pytest.approx(expected.pop(field), rel=1e-5)
        assert {k: found[k] for k in keep} == {k: expected[k] for k in keep}
    assert not list(run.path.glob("samples/.*"))


@pytest.mark.slow
def test_the_comparison_notices_other_noise(params, of_one, runs):
    other = open_run(params.replace(train={"seed": 1}))
    train(other)
    assert not torch.allclose(losses(other), losses(of_one), rtol=0.1)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(params, of_one, runs):
    run = open_run(params)
    stop_after(run, 5 * 16)
    with pytest.raises(Preempted):
        train(run)
    run = open_run(params.replace(train={"processes": 2}))
    train(run)
    assert agree(run, of_one)
    assert [s["processes"] for s in run.provenance()["stretches"]] == [1, 2]


def stop_after(run, nimg: int) -> None:
    """A file STOP once so many images are seen."""

    def wait():
        while not any(row["nimg"] >= nimg for row in run.stats()) and not checkpoint.complete(run.path / "checkpoints"):
            time.sleep(0.02)
        (run.path / "STOP").touch()

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.slow
def test_two_processes_that_are_asked_to_stop_save_together_and_repeat_nothing(params, of_one, runs):
    run = open_run(params.replace(train={"processes": 2, "epochs": 100}))
    stop_after(run, 5 * 16)
    with pytest.raises(Preempted, match=r"stopped training after [\d,]+ images, saved"):
        train(run)
    newest = int(checkpoint.complete(run.path / "checkpoints")[-1].name[5:])
    assert 0 < newest < 100 * 64
    assert not (run.path / "STOP").exists()
    assert not (run.path / "lock.json").exists()
    stop_after(run, newest + 16)
    with pytest.raises(Preempted):
        train(run)
    assert [s["from"] for s in run.provenance()["stretches"]] == [0, newest]


@pytest.mark.slow
def test_a_process_that_is_lost_ends_the_others_and_says_how(params, runs):
    run = open_run(params.replace(train={"processes": 2, "epochs": 100}))
    others = psutil.Process().children()  # a SLURM that tests before this one started

    def kill():
        while not run.stats():
            time.sleep(0.02)
        os.kill(launch._running[2].members[1].pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(ProcessFailed, match=r"^in 2 processes: a process ended with status -9"):
        train(run)
    assert not launch._running
    assert set(psutil.Process().children()) <= set(others)
    # What it left behind is no obstacle.
    stop_after(run, 0)
    with pytest.raises(Preempted):
        train(run)


@pytest.mark.slow
def test_an_error_of_the_processes_is_the_notebooks(params, runs):
    run = open_run(params.replace(train={"processes": 2}))
    train(open_run(params.replace(train={"epochs": 3, "processes": 1})))
    (run.path / "checkpoints" / "nimg-0000000016").mkdir(parents=True)
    (run.path / "checkpoints" / "nimg-0000000016" / "manifest.json").write_text("[]")
    with pytest.raises(
        ProcessFailed, match=r"in 2 processes: Corrupt: nimg-0000000016: manifest\.json is not what was written; delete"
    ):
        train(run)


@pytest.mark.slow
def test_nothing_listens_beyond_this_machine(params, runs):
    run = open_run(params.replace(train={"processes": 2, "epochs": 100}))
    heard = set()

    def listen():
        while not run.stats():
            time.sleep(0.02)
        for member in launch._running[2].members:
            found = psutil.Process(member.pid).net_connections("inet")
            heard.update(c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN)
        (run.path / "STOP").touch()

    threading.Thread(target=listen, daemon=True).start()
    with pytest.raises(Preempted):
        train(run)
    assert heard == {"127.0.0.1"}


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does(params, of_one, tmp_path):
    done = in_two(params, TORCHRUN, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    run = opened(Path(done.stdout.strip()))
    assert agree(run, of_one)
    assert run.provenance()["processes"] == 2


@pytest.mark.slow
def test_accelerate_trains_as_one_process_does(params, of_one, tmp_path):
    done = in_two(params, ACCELERATE, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    run = opened(Path(done.stdout.strip()))
    assert agree(run, of_one)
    assert run.provenance()["processes"] == 2


CLASSIFIER = """
import sys, time
from pathlib import Path
from guidebook.diffusion import classifier
from guidebook.runs.run import opened
from guidebook.sampling.draw import draw
from guidebook.config.sampling import Guidance

def train(*_):
    print("trained", flush=True)
    time.sleep(2)

classifier._train = train
draw(opened(Path(sys.argv[1])), Guidance(w=2.0, combine="classifier"), 14)
"""


@pytest.mark.slow
def test_a_classifier_that_guides_is_trained_by_the_main_process(of_one, runs, tmp_path):
    run = runs / of_one.params.experiment / of_one.path.name
    shutil.copytree(of_one.path, run)
    env = os.environ | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    env |= {"GUIDEBOOK_STORE": f"file://{tmp_path}/store"}
    words = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-c", CLASSIFIER, run], env=env | {"RANK": k, "LOCAL_RANK": k}, **words)
        for k in "01"
    ]
    try:
        said = [process.communicate(timeout=200) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said
    assert [out.count("trained") for out, _ in said] == [1, 0]


def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(params):
    with pytest.raises(ParamsError, match=r"train\.processes = 3 must divide train\.batch = 16"):
        params.replace(train={"processes": 3})
