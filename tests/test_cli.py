"""The command line: quick to answer, and one line for every mistake."""

import io
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from guidebook import __version__
from guidebook.book.progress import status_table
from guidebook.cli import app
from guidebook.config.params import load
from guidebook.runs.run import open_run

COMMAND = Path(sys.executable).with_name("guidebook")
HEAVY = ("torch", "diffusers", "transformers", "numpy", "papermill", "jupyter_client")
# The command in a process that says at its end which of the heavy modules it imported.
SAYS = f"""
import sys
from guidebook.cli import main
try:
    main()
finally:
    print("imported:", *(m for m in {HEAVY} if m in sys.modules))
"""


@pytest.fixture
def guidebook(tmp_path):
    def call(*words, said=False):
        command = [sys.executable, "-c", SAYS] if said else [COMMAND]
        places = {"GUIDEBOOK_RUNS": str(tmp_path / "runs"), "COLUMNS": "200", "PYTHONWARNINGS": "error"}
        return subprocess.run([*command, *words], capture_output=True, text=True, env=os.environ | places, timeout=120)

    return call


def one_line(done) -> str:
    """What a command that failed said: one line on stderr, status 1, nothing imported that takes seconds."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("guidebook: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == "imported:\n"
    return done.stderr


def test_help_lists_every_command(guidebook):
    done = guidebook("--help")
    assert done.returncode == 0
    commands = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {"run", "show", "record", "remove", "train", "status", "fetch", "build"} <= commands
    assert "`run`, `train` and `show` take `demo`, `submit` and `fetch` take `paper`" in " ".join(done.stdout.split())
    taken = ((name, o) for name, c in get_command(app).commands.items() for o in c.params if o.name == "profile")
    profiles = dict.fromkeys(("run", "train", "show"), "demo") | dict.fromkeys(("submit", "fetch"), "paper")
    assert {name: option.default for name, option in taken} == profiles


def test_help_answers_within_half_a_second(guidebook):
    times = []
    for _ in range(4):
        started = time.perf_counter()
        guidebook("--help")
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5


def test_help_imports_nothing_heavy(guidebook):
    done = guidebook("--help", said=True)
    assert done.stdout.endswith("imported:\n")


def test_params_import_nothing_heavy():
    code = f"import sys, guidebook.config.params, guidebook.config.datasets; sys.exit(any(m in sys.modules for m in {HEAVY}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# A command that is asked to stop, in an interpreter that says when it is taken apart
STOPPED = """
import atexit, sys
from guidebook import cli
atexit.register(print, "taken apart")
cli.app = lambda: (print("said"), sys.exit(75))
cli.main()
"""


@pytest.mark.parametrize(("processes", "said"), [("1", "said\n"), ("2", "said\ntaken apart\n")])
def test_whoever_is_asked_to_stop_leaves_at_once_but_one_of_several_processes(processes, said):
    env = os.environ | {"WORLD_SIZE": processes}
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (75, said, "")


BAD = {
    "an unknown experiment": (["run", "mnsit"], "experiment 'mnsit' is not known (nearest: mnist)"),
    "an unknown experiment to show": (["show", "mnsit"], "(nearest: mnist)"),
    "an unknown experiment to fetch": (["fetch", "mnsit"], "(nearest: mnist)"),
    "an unknown profile": (["run", "mnist", "--profile", "dmeo"], "profile 'dmeo' is not known (nearest: demo)"),
    "a path for an experiment": (["run", "../params/mnist"], "is not known"),
    "no experiment": (["run"], "name an experiment, or --all"),
    "a profile that no experiment has": (
        ["run", "--all", "--profile", "dmeo"],
        "no experiment has a profile 'dmeo' (nearest: demo); there are: best, demo,",
    ),
    "an unknown profile after a slash": (["show", "mnist/dmeo"], "profile 'dmeo' is not known (nearest: demo)"),
    "a setting whose section is left out": (
        ["run", "mnist", "--set", "seed=5"],
        "--set 'seed': write section.key=value (as train.seed or sample.seed); sections:",
    ),
    "a setting of one kind without its section": (["run", "mnist", "--set", "num_heads=5"], "(as model.num_heads)"),
    "a setting nested without end": (["run", "mnist", "--set", "train.lr=" + "[" * 3000], "train.lr = '[[["),
    "a setting of octal digits": (["run", "mnist", "--set", "train.seed=010"], "YAML takes 010 for another value"),
    "a setting for training alone": (["train", "mnist", "--set", "train.epoch=3"], "train.epoch is not a parameter"),
    "all and one": (["run", "mnist", "--all"], "--all runs every experiment: leave it out, or 'mnist'"),
    "a number for a list": (
        ["run", "mnist", "--set", "sample.guidance=5"],
        "demo.yml with sample.guidance: sample.guidance = 5: it is a list, written with brackets: [1, 2]",
    ),
    "an unknown section": (["run", "mnist", "--set", "trian.lr=1"], "(nearest: train); sections: data, text, model,"),
    "no such file": (["train", "nope.yml"], "nope.yml: there is no such file"),
    "an unknown key": (["run", "mnist", "--set", "train.epoch=3"], "train.epoch is not a parameter (nearest: epochs)"),
    "a bad value": (["run", "mnist", "--set", "train.batch=-1"], "train.batch = -1: Input should be greater"),
    "a bool for a number": (["run", "mnist", "--set", "train.batch=true"], "train.batch = True: Input should be a valid"),
    "not a number": (["run", "mnist", "--set", "train.lr=.nan"], "train.lr = nan: Input should be a finite number"),
    "code for a value": (["run", "mnist", "--set", "train.lr=!!python/name:os.system"], "train.lr = "),
    "a setting without value": (["run", "mnist", "--set", "train.lr"], "write section.key=value"),
    "a setting without section": (["run", "mnist", "--set", "lr=1"], "write section.key=value"),
    "a setting of two lines": (["run", "mnist", "--set", "a\nb=1"], "write section.key=value"),
    "one bad experiment of two": (["run", "mnist", "mnsit"], "experiment 'mnsit' is not known"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_gives_one_line_and_starts_nothing(case, guidebook, tmp_path):
    words, said = BAD[case]
    assert said in one_line(guidebook(*words, said=True))
    assert list(tmp_path.iterdir()) == []


def test_a_bad_params_file_gives_one_line(guidebook, tmp_path):
    (tmp_path / "bad.yml").write_text("train: !!python/object/apply:os.system ['touch pwned']\n")
    assert "bad.yml cannot be read as YAML" in one_line(guidebook("train", str(tmp_path / "bad.yml"), said=True))


STRANGERS = {
    "code in a key": ("extends: mnist/smoke\n\"__import__('os').mkdir('pwned')\": 1\n", "is not a parameter"),
    "code in a key of a section": (
        "extends: mnist/smoke\ntrain:\n  \"a: __import__('os').mkdir('pwned')\": 1\n",
        "is not a parameter",
    ),
    "code in a name": ("extends: mnist/smoke\nexperiment: x; import os\n", "experiment = 'x; import os'"),
    "another experiment": (
        "extends: mnist/smoke\nexperiment: nothing\nprofile: mine\n",
        "experiment 'nothing' has no notebook",
    ),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_a_file_of_others_is_checked_before_anything_of_it_runs(case, guidebook, tmp_path):
    text, said = STRANGERS[case]
    file = tmp_path / "theirs.yml"
    file.write_text(text)
    assert said in one_line(guidebook("run", str(file), said=True))
    assert [p.name for p in tmp_path.iterdir()] == ["theirs.yml"]


def test_run_takes_a_file_and_a_profile_after_a_slash(tmp_path, monkeypatch):
    ran = []

    def execute(params):
        ran.append(params)
        return open_run(params), True

    monkeypatch.setenv("GUIDEBOOK_RUNS", str(tmp_path))
    monkeypatch.setattr("guidebook.book.notebook.run_experiment", execute)
    (tmp_path / "mine.yml").write_text("experiment: mnist\nprofile: mine\nextends: smoke\ntrain: {lr: 0.5}\n")
    words = [str(tmp_path / "mine.yml"), "mnist/smoke", "mnist"]
    done = CliRunner().invoke(app, ["run", *words, "--profile", "demo", "--set", "train.epochs=3"])
    assert (done.exit_code, done.stderr) == (0, "")
    smoke = load("mnist", "smoke", {"train.epochs": 3})
    assert ran == [smoke.replace(profile="mine", train={"lr": 0.5}), smoke, load("mnist", "demo", {"train.epochs": 3})]


def test_a_folder_that_is_no_run_is_not_recorded(guidebook, tmp_path):
    assert "is not a run folder" in one_line(guidebook("record", str(tmp_path), said=True))


def test_the_scripts_are_shown_of_what_would_be_refused_and_it_is_said(guidebook, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    done = guidebook("submit", "mnist", "--dry-run")
    assert done.returncode == 1
    assert done.stdout.count("#!/bin/bash") == 2
    assert "it would be refused: not on this machine: data set mnist" in done.stderr


def test_a_narrow_table_of_runs_cuts_no_name_and_no_key():
    from rich.console import Console

    row = {
        "run": "samplers/demo · cosine-long-name",
        "folder": "/r/samplers/demo-0123abcd/variants/cosine-0000aaaa",
        "state": "training",
    }
    row |= {"seed": 0, "job": None, "images seen": 1000, "of": 40_192, "images/s": 700, "seconds left": 60, "loss": 0.1}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(status_table([row | {"best adherence": None}]))
    (line,) = [line for line in console.export_text().splitlines() if "training" in line]
    assert row["run"] in line
    assert "0123abcd" in line


def test_runs_that_are_not_complete_are_listed_and_removed(runs, tiny):
    run = open_run(tiny)
    (open_run(tiny.replace(train={"seed": 7})).path / "metrics.json").write_text("{")
    listed = CliRunner().invoke(app, ["remove"]).stdout.split()
    assert listed[::2] == ["stopped", "corrupt"]
    assert listed[1] == str(run.path)
    assert CliRunner().invoke(app, ["remove", *listed[1::2]]).exit_code == 0
    assert CliRunner().invoke(app, ["remove"]).stdout == ""


def test_train_takes_a_changed_parameter(monkeypatch, tmp_path, tiny):
    seen = []
    (tmp_path / "a.yml").write_text(tiny.yaml())
    monkeypatch.setattr("guidebook.training.loop.train", lambda run: seen.append(run))
    monkeypatch.setattr("guidebook.runs.run.open_run", lambda params: types.SimpleNamespace(params=params, path="x"))
    assert CliRunner().invoke(app, ["train", str(tmp_path / "a.yml"), "--set", "train.seed=5"]).exit_code == 0
    assert seen[0].params == tiny.replace(train={"seed": 5})


def test_the_version_is_printed(guidebook):
    assert guidebook("--version").stdout == f"guidebook {__version__}\n"


def test_show_says_what_the_published_setting_costs(runs):
    done = CliRunner().invoke(app, ["show", "mnist", "--profile", "paper", "--json"])
    assert (done.exit_code, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert shown["parameters"] == 3_140_385
    assert shown["updates"] == round(20 * 60_000 / 512)
    assert shown["images_seen"] == shown["updates"] * 512
    assert shown["GFLOP_per_image"] == pytest.approx(2 * shown["GMAC_per_image"], abs=1e-3)
    assert shown["params"]["train"]["batch"] == 512


@pytest.mark.parametrize(("words", "said"), [([], "no runs yet: guidebook run mnist\n"), (["--json"], "[]\n")])
def test_status_without_runs_names_the_command_that_makes_one(runs, words, said):
    done = CliRunner().invoke(app, ["status", *words])
    assert (done.exit_code, done.output) == (0, said)


def test_status_in_a_pipe_gives_every_run_a_line(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    row = {
        "run": "r" * 40,
        "folder": "f",
        "state": "s" * 30,
        "job": "7",
        "job state": "RUNNING",
        "job time left": "1:00",
    }
    monkeypatch.setattr("guidebook.book.status.everything", lambda: [row, row])
    assert CliRunner().invoke(app, ["status"]).output.count("\n") == 3
