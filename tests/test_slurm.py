"""What would be submitted. That it works on a real SLURM is tested in tests/slurm."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from guidebook.book import pages
from guidebook.book.progress import status_table
from guidebook.book.status import everything
from guidebook.config.datasets import DataError
from guidebook.config.params import ParamsError, check, load
from guidebook.config.paths import BOOK, ROOT
from guidebook.runs.lock import lock
from guidebook.runs.run import folder, open_run
from guidebook.slurm import script as scripts
from guidebook.slurm import site, submit
from guidebook.slurm.script import script
from guidebook.slurm.submit import SubmitError, tasks

SITE = site.load()


def asking(**changes):
    return check(SITE.model_dump() | changes, "cluster.yml", site.Cluster)


def header(text: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return dict(line.split("=", 1) if "=" in line else (line, "") for line in lines)


def parses(text: str) -> bool:
    return subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def program(file: Path, lines: str) -> None:
    file.write_text(f"#!/bin/bash\n{lines}\n")
    file.chmod(0o755)


def as_a_job(text: str, folder: Path, **env: str) -> subprocess.CompletedProcess:
    """A batch script run as a first task, with the programs in `folder` before those of the machine."""
    env |= {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "n", "HOME": str(folder)}
    env |= {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "1", "SLURM_JOB_ID": "1"}
    return subprocess.run(["bash"], input=text, env=env, capture_output=True, text=True, check=False)


def test_there_is_a_task_for_every_experiment_and_seed_with_the_folder_it_will_have(runs):
    work = tasks(["mnist"], "smoke", {}, [0, 7], SITE)
    assert [t.name for t in work] == ["mnist/smoke, seed 0", "mnist/smoke, seed 7"]
    for task, seed in zip(work, (0, 7), strict=True):
        assert task.folder == str(folder(load("mnist", "smoke", {"train.seed": seed})))
        assert f"train.seed={seed}" in task.words


def test_the_script_asks_for_what_the_cluster_file_says(runs):
    here = asking(partition="gpu", account="lab", nodes=2, gpus="a100:4", throttle=2, sbatch=["--constraint=big"])
    asked = header(script(tasks(["mnist"], "smoke", {}, [0, 1, 2], here)))
    expected = {
        "partition": "gpu",
        "account": "lab",
        "array": "0-2%2",
        "nodes": "2",
        "ntasks-per-node": "4",
        "gpus-per-node": "a100:4",
        "constraint": "big",
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
    assert tasks(["mnist"], "smoke", {}, None, asking(nodes=2, gpus=4))[0].processes == 8
    assert tasks(["mnist"], "smoke", {"train.processes": 8}, None, asking(nodes=2, gpus=4))[0].processes == 8


def test_without_gpus_any_number_that_the_nodes_share_alike_is_taken(runs):
    assert tasks(["mnist"], "smoke", {"train.processes": 4}, None, asking(nodes=2, gpus=0))[0].processes == 4


@pytest.mark.parametrize(("processes", "nodes", "gpus"), [(1, 2, 4), (4, 2, 4), (16, 2, 4), (8, 1, 1), (1, 2, 0)])
def test_processes_that_do_not_fit_the_devices_are_refused(runs, processes, nodes, gpus):
    with pytest.raises(
        SubmitError, match=rf"^train\.processes = {processes} does not fit {nodes} nodes with {gpus} GPUs"
    ):
        tasks(["mnist"], "smoke", {"train.processes": processes}, None, asking(nodes=nodes, gpus=gpus))


def test_a_task_whose_command_is_missing_fails_and_is_not_requeued(runs, tmp_path):
    text = script(tasks(["mnist"], "smoke", {}, None, asking(container=str(tmp_path / "nothing"))))
    program(tmp_path / "scontrol", f"echo JobState=RUNNING >> {tmp_path}/scontrol-was-called")
    done = as_a_job(text, tmp_path)
    assert done.returncode == 127, done.stderr
    assert not (tmp_path / "scontrol-was-called").exists()


def test_a_place_that_is_set_to_nothing_is_not_that_of_a_job(runs, monkeypatch):
    monkeypatch.setenv("HF_HOME", "")
    text = script(tasks(["mnist"], "smoke", {}, None, SITE))
    assert "export GUIDEBOOK_RUNS=" in text
    assert "HF_HOME" not in text


def test_words_that_mean_something_to_a_shell_stay_words(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path / "it's $(here); `there`"))
    work = tasks(
        ["mnist"],
        "smoke",
        {"data.caption": 'it\'s a $(touch /tmp/x) `{label}`; "quoted"', "text.tokens": 77},
        None,
        asking(environment={"NAME": "$(id) 'x'"}),
    )
    text = script(work)
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
    here = asking(setup=("module load cuda/12.8",), container="apptainer exec --nv book.sif")
    text, book = script(tasks(["mnist"], "smoke", {}, None, here)), scripts.book_script(here)
    assert parses(text)
    assert parses(book)
    assert text.index("module load cuda/12.8") < text.index("case $SLURM_ARRAY_TASK_ID")
    assert 'apptainer exec --nv book.sif guidebook run "${words[@]}" &' in text
    demo, build = book.splitlines()[-2:]
    assert demo == "apptainer exec --nv book.sif guidebook run mnist --profile demo"
    assert build == "apptainer exec --nv book.sif guidebook build"
    assert "MASTER_ADDR" in text
    assert "HF_HUB_OFFLINE=1" in text


def test_experiments_that_ask_for_other_resources_are_an_array_of_their_own_and_so_is_the_book(runs):
    cifar = {"time": "48:00:00", "gpus": "a100:4", "memory": "200G"}
    here = asking(overrides={"cifar10": cifar, "book": {"time": "10:00", "cpus": 2}})
    *arrays, (book, _) = submit.scripts(here, tasks(["mnist", "cifar10", "samplers"], "demo", {}, [0, 1], here))
    asked = [header(text) for text, _ in arrays]
    assert [(h["array"], h["time"], h["mem"], h["gpus-per-node"], h["ntasks-per-node"]) for h in asked] == [
        ("0-3", "24:00:00", "64G", "1", "1"),
        ("0-1", "48:00:00", "200G", "a100:4", "4"),
    ]
    assert [t.name.partition("/")[0] for _, work in arrays for t in work] == [
        "mnist", "mnist", "samplers", "samplers", "cifar10", "cifar10",
    ]  # fmt: skip
    assert (header(book)["time"], header(book)["cpus-per-task"]) == ("10:00", "2")


EXAMPLES = re.findall(r"```yaml\n(.*?)```", (BOOK / "cluster.md").read_text(), re.DOTALL)
SEEN = [
    "conda activate guidebook\npython -m guidebook run mnist --profile smoke",
    "module load cuda/12.8\npython -m guidebook run mnist --profile smoke",
    "apptainer exec --nv --bind /scratch /shared/guidebook.sif guidebook run mnist --profile smoke",
]


@pytest.mark.parametrize(
    ("example", "seen"), [*zip(EXAMPLES, SEEN, strict=True)], ids=["conda", "modules", "container"]
)
def test_the_examples_of_the_chapter_do_what_they_say(example, seen, runs, tmp_path, monkeypatch):
    for name in ("python", "apptainer"):
        program(tmp_path / name, f'echo {name} "$@"')
    monkeypatch.setattr("sys.executable", "python")
    conda = tmp_path / "miniforge3" / "etc" / "profile.d" / "conda.sh"
    conda.parent.mkdir(parents=True)
    conda.write_text('conda() { echo conda "$@"; }\n')
    text = script(tasks(["mnist"], "smoke", {}, None, asking(**yaml.safe_load(example))))
    done = as_a_job(text, tmp_path, **{"BASH_FUNC_module%%": '() { echo module "$@"; }'})  # as a login shell exports it
    assert (done.returncode, done.stderr) == (0, "")
    said = [line for line in done.stdout.splitlines() if ": start 1, job" not in line]
    assert "\n".join(said).startswith(seen)


@pytest.mark.parametrize(
    ("sent", "requeued"), [("touch {}", False), ("kill -USR1 $PPID", True)], ids=["by a person", "by SLURM"]
)
def test_a_request_to_stop_is_kept_while_python_starts_and_only_that_of_slurm_requeues_the_task(
    sent, requeued, runs, tmp_path, monkeypatch
):
    (task,) = work = tasks(["mnist"], "smoke", {}, None, SITE)
    stop = Path(task.folder) / "STOP"
    start = (
        f"from pathlib import Path; from guidebook.runs.preemption import drop_stale; drop_stale(Path({str(stop)!r}))"
    )
    lines = [sent.format(stop), f"until [ -e {stop} ]; do sleep 0.05; done", f'{sys.executable} -c "{start}"']
    program(tmp_path / "python", "\n".join([*lines, f"[ ! -e {stop} ] || exit 75"]))
    program(tmp_path / "scontrol", f"echo JobState=RUNNING; echo $* >> {tmp_path}/called")
    monkeypatch.setattr("sys.executable", "python")
    done = as_a_job(script(work), tmp_path, PYTHONPATH=str(ROOT / "lib"))
    assert (done.returncode, done.stderr) == (75, "")
    called = (tmp_path / "called").read_text().splitlines() if (tmp_path / "called").exists() else []
    assert ("requeue 1_0" in called) == requeued
    assert ("stays so until it is submitted again" in done.stdout) != requeued
    assert not stop.exists()


def test_data_that_were_cut_short_are_refused_before_anything_is_submitted(runs, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        pq.write_table(pa.table({"label": [0] * 1000}), folder / f"{split}-00000-of-00001.parquet")
    monkeypatch.setenv("GUIDEBOOK_DATA", str(tmp_path / "data"))
    settings = {"data.name": "mnist", "text.encoder": "embedded"}
    assert not tasks(["mnist"], "smoke", settings, None, SITE)[0].missing
    with open(file := folder / "test-00000-of-00001.parquet", "rb+") as cut:
        cut.truncate(file.stat().st_size - 1)
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet"):
        tasks(["mnist"], "smoke", settings, None, SITE)


def test_what_is_complete_or_queued_is_left_out_when_submitted_again(runs, tmp_path, monkeypatch):
    work = tasks(["mnist"], "smoke", {}, [0, 1, 2], SITE)
    Path(work[0].folder).mkdir(parents=True)
    (Path(work[0].folder) / "notebook.ipynb").touch()
    (runs / "jobs").mkdir()
    record = [{"job": f"7_{i}", "name": task.name, "folder": task.folder, "log": ""} for i, task in enumerate(work)]
    (runs / "jobs" / "7.json").write_text(json.dumps(record))
    program(tmp_path / "squeue", "echo '7_1|PENDING|Priority|59:00'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    left, lines = submit.unfinished(work)
    assert left == [work[2]]
    assert lines == ["mnist/smoke, seed 1: in the queue already, as job 7_1", "mnist/smoke, seed 0: complete"]


def test_a_run_that_was_submitted_again_is_shown_with_its_later_job(runs, tmp_path, monkeypatch):
    program(tmp_path / "squeue", "echo '10_0|RUNNING|None|59:00'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (runs / "jobs").mkdir()
    task = {"name": "mnist/smoke", "folder": str(runs / "mnist" / "smoke-00000000")}
    for job in ("9", "10"):
        (runs / "jobs" / f"{job}.json").write_text(json.dumps([{"job": f"{job}_0"} | task]))
    assert [job["job"] for job in submit.jobs()] == ["9_0", "10_0"]  # whose log lies beside its record, as it did once
    assert [job["log"] for job in submit.jobs()] == [f"{runs}/jobs/{job}.log" for job in ("9_0", "10_0")]
    (row,) = [row for row in everything() if row["job"]]
    assert (row["job"], row["job state"]) == ("10_0", "RUNNING")


FAILED = "guidebook: mnist.ipynb, cell 6: ValueError: `[x]`\n(the whole traceback is in /r/notebook.partial.ipynb)"
JOB = {"job": "5_0", "name": "mnist/smoke", "folder": "/nowhere", "log": "/nowhere/5_0.log"}


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "3", '"x"', "[3]", "[null]", "[{}]", "[" * 10**5, "\xff", json.dumps([JOB | {"folder": 3}]),
     json.dumps([{"job": "5_0"}]), json.dumps([JOB | {"log": None}])],
    ids=range(13),
)  # fmt: skip
def test_jobs_of_another_form_are_left_out_in_one_line_that_names_them(runs, tmp_path, monkeypatch, caplog, text):
    program(tmp_path / "squeue", "true")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (runs / "jobs").mkdir()
    (runs / "jobs" / "5.json").write_bytes(text.encode("latin-1"))
    (runs / "jobs" / "6.json").write_text(json.dumps([JOB | {"job": "6_0"}]))
    (runs / "jobs" / "notes.json").write_text("of somebody")
    assert [job["job"] for job in submit.jobs()] == ["6_0"]
    assert everything() == []
    assert {r.getMessage() for r in caplog.records} == {
        f"left out: {runs / 'jobs' / '5.json'} is not what was written; delete it"
    }


LOGS = {
    0: ("T mnist: start 1, job 7 on n\nguidebook: stopped, saved\nT mnist: exit status 75", "stopped", None),
    1: (f"T mnist: start 1, job 8 on n\n{FAILED}\nT mnist: exit status 1", "failed", "mnist.ipynb, cell 6: ValueError: `[x]`"),
    2: (
        "T mnist: exit status 75\nT mnist: start 2, job 9 on n\nmnist 30 s\nslurmstepd: DUE TO TIME LIMIT", "failed",
        "slurmstepd: DUE TO TIME LIMIT",
    ),
    3: ("T mnist: start 1, job 9 on n\nmnist 30 s: cell 3", "training", None),
    4: (f"T mnist: start 1, job 9 on n\n{FAILED}\nT mnist: exit status 1", "queued", None),
    5: (  # killed as it ended
        "T mnist: start 1, job 9 on n\nguidebook: stopped training after 448 images, saved; run again to go on", "stopped", None,
    ),
    6: ("T mnist: start 1, job 9 on n\nmnist 30 s\nslurmstepd: CANCELLED\n2026-11-29T14:01:28 stop requested", "stopped", None),
    7: (  # and said where it was
        "T mnist: start 1, job 9 on n\nslurmstepd: CANCELLED\n2026-11-29T14:01:28 stop requested\nmnist 90 s: cell 6", "stopped", None,
    ),
}  # fmt: skip


def test_a_failed_job_is_named_with_the_last_line_of_its_log_below_what_runs_and_above_what_is_recorded(
    runs, tiny, tmp_path, monkeypatch, caplog
):
    (runs / "jobs").mkdir()
    program(tmp_path / "squeue", "echo '1_4|PENDING|Priority|59:00'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    record = [
        {"job": "2", "name": "the book", "folder": "/book"},
        {"job": "1_9", "name": "never began", "folder": "/x"},
    ]
    record += [{"job": "1_8", "name": "no python", "folder": "/y"}]
    texts = {"2": "guidebook: a page failed\nthe book: exit status 1\n"}
    texts |= {"1_8": "module: command not found\nT mnist: start 1, job 1 on n\nno python\nT mnist: exit status 127\n"}
    for seed, (text, _, _) in LOGS.items():
        record.append(
            {"job": f"1_{seed}", "name": "mnist", "folder": str(open_run(tiny.replace(train={"seed": seed})).path)}
        )
        texts[f"1_{seed}"] = f"{text}\n"
    for job in record:
        job["log"] = str(runs / "jobs" / f"{job['job']}.log")
        if job["job"] in texts:
            Path(job["log"]).write_text(texts[job["job"]])
    (runs / "jobs" / "2.json").write_text(json.dumps(record))
    with lock(Path(next(job["folder"] for job in record if job["job"] == "1_3"))):
        rows = everything()
    assert {row["seed"]: (row["state"], row.get("reason")) for row in rows if "seed" in row} == {
        seed: (state, reason) for seed, (_, state, reason) in LOGS.items()
    }
    others = {row["run"]: (row["state"], row["reason"]) for row in rows if "seed" not in row}
    assert others == {"the book": ("failed", "a page failed"), "no python": ("failed", "no python")}
    assert [row["state"] for row in rows] == ["training", "queued", *["failed"] * 4, *["stopped"] * 4]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(status_table([*rows, rows[0] | {"run": "old", "state": "recorded"}]))
    shown = console.export_text()
    assert f"{LOGS[1][2]}, {runs}/jobs/1_1.log" in shown.replace("\n", "")
    assert shown.index("training") < shown.index("ValueError") < shown.index("recorded")
    page = pages.status([])
    assert "ValueError: `[x]`" in page
    assert "a page failed" in page
    assert page.count("TIME LIMIT") == 1
    program(tmp_path / "squeue", "echo no controller >&2; exit 1")
    assert {row["state"] for row in everything()} == {"stopped"}
    assert "squeue refused: no controller" in caplog.text
    (runs / "jobs" / "2.json").write_text("[]")
    assert "What failed" not in pages.status([])
