"""What would be submitted. That it works on a real SLURM is tested in tests/slurm."""

import json
import shutil
import subprocess

import pytest

from guidebook.book.status import everything
from guidebook.config.params import ParamsError, load
from guidebook.config.paths import ROOT
from guidebook.runs.run import folder
from guidebook.slurm import script as scripts
from guidebook.slurm import site, submit
from guidebook.slurm.script import script
from guidebook.slurm.submit import SubmitError, tasks

SITE = site.load()


def site(**changes):
    return SITE.model_copy(update=changes)


def header(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return dict(line.split("=", 1) if "=" in line else (line, "") for line in lines)


def parses(text: str) -> bool:
    return subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_there_is_a_task_for_every_experiment_and_seed_with_the_folder_it_will_have(runs):
    work = tasks(["mnist"], "smoke", {}, [0, 7], SITE)
    assert [t.name for t in work] == ["mnist/smoke, seed 0", "mnist/smoke, seed 7"]
    for task, seed in zip(work, (0, 7), strict=True):
        assert task.folder == str(folder(load("mnist", "smoke", {"train.seed": seed})))
        assert f"train.seed={seed}" in task.words


def test_the_script_asks_for_what_the_cluster_file_says(runs):
    asked = header(
        script(
            site(partition="gpu", account="lab", nodes=2, gpus=4),
            tasks(["mnist"], "smoke", {}, [0, 1, 2], site(nodes=2, gpus=4)),
        )
    )
    expected = {
        "partition": "gpu",
        "account": "lab",
        "array": "0-2",
        "nodes": "2",
        "ntasks-per-node": "4",
        "gpus-per-node": "4",
    }
    expected |= {
        "cpus-per-task": "8",
        "mem": "64G",
        "time": "24:00:00",
        "signal": "B:USR1@120",
        "open-mode": "append",
        "requeue": "",
    }
    assert expected.items() <= asked.items()
    assert "qos" not in asked


def test_processes_are_one_a_gpu(runs):
    assert tasks(["mnist"], "smoke", {}, None, site(nodes=2, gpus=4))[0].processes == 8
    assert tasks(["mnist"], "smoke", {"train.processes": 8}, None, site(nodes=2, gpus=4))[0].processes == 8


def test_without_gpus_any_number_that_the_nodes_share_alike_is_taken(runs):
    assert tasks(["mnist"], "smoke", {"train.processes": 4}, None, site(nodes=2, gpus=0))[0].processes == 4


@pytest.mark.parametrize(("processes", "nodes", "gpus"), [(1, 2, 4), (4, 2, 4), (16, 2, 4), (8, 1, 1), (1, 2, 0)])
def test_processes_that_do_not_fit_the_devices_are_refused(runs, processes, nodes, gpus):
    with pytest.raises(
        SubmitError, match=rf"^train\.processes = {processes} does not fit {nodes} nodes with {gpus} GPUs"
    ):
        tasks(["mnist"], "smoke", {"train.processes": processes}, None, site(nodes=nodes, gpus=gpus))


def test_a_task_whose_command_is_missing_fails_and_is_not_requeued(runs, tmp_path):
    text = script(site(container=str(tmp_path / "nothing")), tasks(["mnist"], "smoke", {}, None, SITE))
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho JobState=RUNNING >> scontrol-was-called\n")
    (tmp_path / "scontrol").chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_ARRAY_TASK_ID": "0",
        "SLURM_ARRAY_JOB_ID": "1",
        "SLURM_JOB_ID": "1",
    }
    text = text.replace(f"cd {ROOT}", f"cd {tmp_path}")
    done = subprocess.run(
        ["bash"], input=text, env=env | {"SLURM_JOB_NODELIST": "n"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 127, done.stderr
    assert not (tmp_path / "scontrol-was-called").exists()


def test_words_that_mean_something_to_a_shell_stay_words(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path / "it's $(here); `there`"))
    work = tasks(["mnist"], "smoke", {"data.caption": 'it\'s a $(touch /tmp/x) `{label}`; "quoted"'}, None, SITE)
    text = script(site(environment={"NAME": "$(id) 'x'"}), work)
    assert parses(text)
    lines = [line for line in text.splitlines() if line.startswith("export") or line.startswith("    0)")]
    said = "\n".join(
        [
            *lines[:-1],
            "SLURM_ARRAY_TASK_ID=0",
            "case 0 in",
            lines[-1],
            "esac",
            'printf "%s\\n" "$NAME" "$GUIDEBOOK_DATA" "${words[@]}"',
        ]
    )
    out = subprocess.run(["bash"], input=said, capture_output=True, text=True, check=True).stdout.splitlines()
    assert out[0] == "$(id) 'x'"
    assert out[1] == str(tmp_path / "it's $(here); `there`")
    assert 'data.caption=it\'s a $(touch /tmp/x) `{label}`; "quoted"' in out


def test_a_run_that_lacks_its_data_or_its_encoder_is_refused_and_told_what_to_fetch(runs, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    work = tasks(["mnist"], "paper", {}, None, SITE)
    with pytest.raises(SubmitError) as refused:
        submit.submit(SITE, work)
    assert str(refused.value) == submit.lacking(work)
    assert submit.lacking(tasks(["mnist"], "smoke", {}, None, SITE)) is None
    assert "data set mnist" in str(refused.value)
    assert "text encoder openai/clip-vit-base-patch32" in str(refused.value)
    assert "guidebook fetch mnist --profile paper`" in str(refused.value)
    other = submit.lacking(tasks(["mnist"], "paper", {"data.name": "cifar10", "train.lr": 0.1}, None, SITE))
    assert "data set cifar10" in other
    assert "guidebook fetch mnist --profile paper --set data.name=cifar10`" in other


def test_seeds_are_named_once(runs):
    with pytest.raises(SubmitError, match="name seeds twice"):
        tasks(["mnist"], "smoke", {"train.seed": 3}, [0], SITE)
    assert len(tasks(["mnist"], "smoke", {"train.seed": 3}, None, SITE)) == 1


def test_the_same_run_is_not_submitted_twice(runs):
    with pytest.raises(SubmitError, match="name every experiment and every seed once"):
        tasks(["mnist"], "smoke", {}, [1, 1], SITE)


def test_a_wrong_parameter_is_refused_before_anything_is_submitted(runs):
    with pytest.raises(ParamsError, match=r"train\.lr"):
        tasks(["mnist"], "smoke", {"train.lr": -1}, None, SITE)


def test_without_sbatch_nothing_is_submitted(runs, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SubmitError, match="sbatch is not on PATH"):
        submit.submit(SITE, tasks(["mnist"], "smoke", {}, None, SITE))
    assert not (runs / "jobs").exists()


def test_scripts_are_right_bash_with_setup_and_container(runs):
    here = site(setup=("module load cuda/12.8",), container="apptainer exec --nv book.sif", nodes=2, gpus=1)
    text, book = script(here, tasks(["mnist"], "smoke", {}, None, here)), scripts.book_script(here)
    assert parses(text)
    assert parses(book)
    assert text.index("module load cuda/12.8") < text.index("case $SLURM_ARRAY_TASK_ID")
    assert 'apptainer exec --nv book.sif guidebook run "${words[@]}" &' in text
    demo, build = book.splitlines()[-1].split(" && ")
    assert demo == "apptainer exec --nv book.sif guidebook run mnist --profile demo"
    assert build == "apptainer exec --nv book.sif guidebook build"
    assert "MASTER_ADDR" in text
    assert "HF_HUB_OFFLINE=1" in text


def test_a_run_that_was_submitted_again_is_shown_with_its_later_job(runs, tmp_path, monkeypatch):
    (tmp_path / "squeue").write_text("#!/bin/sh\necho '10_0|RUNNING|None|59:00'\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (runs / "jobs").mkdir()
    task = {"name": "mnist/smoke", "folder": str(runs / "mnist" / "smoke-00000000")}
    for job in ("9", "10"):
        (runs / "jobs" / f"{job}.json").write_text(json.dumps([{"job": f"{job}_0"} | task]))
    assert [job["job"] for job in submit.jobs()] == ["9_0", "10_0"]
    (row,) = [row for row in everything() if row["job"]]
    assert (row["job"], row["job state"]) == ("10_0", "RUNNING")
