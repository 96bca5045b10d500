"""Experiments on a real SLURM: submitted, stopped in every way it has, and gone on with as if nothing had been."""

import os
import re
import time
from pathlib import Path

import pytest
import study
from study import Study, same

from guidebook.book.notebook import missing
from guidebook.runs.lock import lock
from guidebook.runs.run import opened

EPOCHS, EVERY = 24, 4  # 96 steps, some 7 s on one core; a checkpoint every 16
INTERVAL = EVERY * 64  # images
pytestmark = pytest.mark.timeout(900)


def paced(seconds: float) -> dict[str, str]:
    """The environment of a task whose first life takes so long for each step, however fast the machine."""
    return study.CLUSTER["environment"] | {"PACE": str(seconds)}


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return study.write(tmp_path_factory.mktemp("study") / "root", EPOCHS, EVERY)


@pytest.fixture
def tiny(root, slurm, tmp_path):
    study.configure(root, environment=paced(0.25))
    return Study(root, tmp_path / "runs", slurm.env)


@pytest.fixture(scope="session")
def unbroken(root, tmp_path_factory):
    """The same training, on no cluster and left alone."""
    alone = Study(root, tmp_path_factory.mktemp("unbroken"), {})
    alone.guidebook("run", "tiny")
    return alone.run()


def until(condition, timeout=150):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def training(tiny, seed=0, images=400):
    """Waits until some images are seen."""
    until(lambda: tiny.seen(seed) >= images)


def gone_on(tiny, unbroken, reached: int | None = None) -> bool:
    """Whether the run of seed 0 equals the unbroken one and its notebook is complete.

    Nothing may be repeated, or, where a task ended without notice after `reached` images, what came after its last checkpoint.
    """
    run = opened(tiny.run())
    begun = [stretch["from"] for stretch in run.provenance()["stretches"]]
    stops = [int(n.replace(",", "")) for n in re.findall(r"training after ([\d,]+) images", tiny.log("*_0"))]
    assert begun[0] == 0
    assert len(begun) > 1
    if reached is None:
        assert begun[1:] == stops
    else:
        assert begun[1] >= reached - INTERVAL
    assert not missing(run.path / "notebook.ipynb")
    return same(run.path, unbroken)


def starts(log: str) -> list[str]:
    return re.findall(r": start (\d+), job", log)


def test_tasks_of_all_seeds_run_and_then_the_book(tiny, slurm):
    array, book = tiny.submit("--seeds", "0,1", "--set", "train.epochs=4")
    assert slurm.state(book) == "PENDING"
    rows = {row["job"]: row for row in tiny.status()}
    assert set(rows) == {f"{array}_0", f"{array}_1", book}
    assert rows[book]["run"] == "the book"
    assert rows[book]["job state"].startswith("PENDING (Dependency")
    slurm.wait(array, "COMPLETED", 180)
    slurm.wait(book, "COMPLETED", 300)
    for seed in (0, 1):
        assert not missing(tiny.run(seed) / "notebook.ipynb")
    assert (tiny.root / "book" / "_build" / "html" / "experiments" / "tiny.html").exists()
    assert {row["state"] for row in tiny.status()} == {"complete"}


def test_a_task_that_is_told_to_stop_saves_and_alone_is_requeued(tiny, slurm, unbroken, tally):
    array = tiny.array("--seeds", "0,1")
    training(tiny)
    slurm.run("scancel", "--signal=USR1", "--batch", f"{array}_0")
    slurm.wait(f"{array}_0", "PENDING", 60)
    slurm.wait(array, "COMPLETED", 400)
    assert (slurm.restarts(f"{array}_0"), slurm.restarts(f"{array}_1")) == (1, 0)
    assert starts(tiny.log(f"{array}_0")) == ["1", "2"]
    assert starts(tiny.log(f"{array}_1")) == ["1"]
    assert "saved; run again to go on" in tiny.log(f"{array}_0")
    assert gone_on(tiny, unbroken)
    tally(1, "SLURM: one task of an array told to stop", 1, 1, "requeued alone; nothing repeated; weights equal")


@pytest.mark.timeout(1200)
def test_a_task_outlives_its_time_limit(tiny, slurm, unbroken, tally):
    # SLURM looks every 30 s, so it asks 30 to 60 s after a life began: time to start and to get on. Paced, the training takes
    # longer than that.
    study.configure(tiny.root, time="2:00", notice=60, environment=paced(1))
    array = tiny.array()
    slurm.wait(array, "COMPLETED", 900)
    assert slurm.restarts(f"{array}_0") >= 1
    assert "stop requested" in tiny.log(f"{array}_0")
    assert "DUE TO TIME LIMIT" not in tiny.log(f"{array}_0")
    assert gone_on(tiny, unbroken)
    tally(
        1, "SLURM: time limit with --signal=B:USR1", 1, 1, f"lives: {slurm.restarts(f'{array}_0') + 1}; weights equal"
    )


def test_a_task_that_cannot_stop_in_time_is_requeued_all_the_same(tiny, slurm, tally):
    array = tiny.array("--set", "train.epochs=2", "--set", "data.caption=busy {label}")  # see study.CELLS
    until(lambda: (tiny.run() / "model").is_dir())
    slurm.run("scancel", "--signal=USR1", "--batch", f"{array}_0")
    slurm.wait(array, "COMPLETED", 400)
    assert slurm.restarts(f"{array}_0") == 1
    assert "it did not stop in time" in tiny.log(f"{array}_0")
    assert starts(tiny.log(f"{array}_0")) == ["1", "2"]
    assert not missing(tiny.run() / "notebook.ipynb")
    tally(
        1,
        "SLURM: told to stop while a cell is busy otherwise",
        1,
        1,
        "requeued before the limit, complete in its second life",
    )


def test_a_task_outlives_its_preemption(tiny, slurm, unbroken, tally):
    array = tiny.array()
    training(tiny)
    urgent = slurm.submit("true", "--exclusive", "--partition=urgent")
    slurm.wait(urgent, "COMPLETED", 60)
    assert "saved; run again to go on" in tiny.log(f"{array}_0")
    slurm.wait(array, "COMPLETED", 400)
    assert slurm.restarts(f"{array}_0") == 1
    assert gone_on(tiny, unbroken)
    tally(1, "SLURM: preempted by a partition of higher priority", 1, 1, "requeued; nothing repeated; weights equal")


def test_a_task_outlives_its_node(tiny, slurm, unbroken, tally):
    array = tiny.array()
    training(tiny)
    reached = tiny.seen()
    slurm.node(slurm.nodes[0], "down")
    try:
        slurm.wait(f"{array}_0", "PENDING")
    finally:
        slurm.node(slurm.nodes[0], "resume")
    slurm.wait(array, "COMPLETED", 400)
    assert slurm.restarts(f"{array}_0") == 1
    assert gone_on(tiny, unbroken, reached)
    tally(1, "SLURM: node down", 1, 1, "requeued; at most one checkpoint interval repeated; weights equal")


def test_a_task_that_is_requeued_by_hand_goes_on_and_the_others_are_left_alone(tiny, slurm, unbroken, tally):
    array = tiny.array("--seeds", "0,1")
    training(tiny)
    reached = tiny.seen()
    slurm.scontrol("requeue", f"{array}_0")
    slurm.wait(array, "COMPLETED", 400)
    assert (slurm.restarts(f"{array}_0"), slurm.restarts(f"{array}_1")) == (1, 0)
    assert gone_on(tiny, unbroken, reached)
    tally(1, "SLURM: scontrol requeue of one task", 1, 1, "that task alone began again; weights equal")


def test_a_task_that_fails_says_why_the_book_comes_all_the_same_and_it_alone_is_submitted_again(tiny, slurm, tally):
    words = ("--seeds", "0,1", "--set", "train.epochs=2")
    script = tiny.guidebook("submit", "tiny", "--profile", "demo", "--dry-run", *words).stdout
    folder = Path(re.search(r" run=(\S+)", script)[1])
    folder.mkdir(parents=True)
    with lock(folder):
        array, book = tiny.submit(*words)
        slurm.wait(f"{array}_0", "FAILED", 60)
    slurm.wait(book, "COMPLETED", 300)
    assert slurm.state(f"{array}_1") == "COMPLETED"
    assert f"in use by process {os.getpid()}" in tiny.log(f"{array}_0")
    assert slurm.show(f"{array}_0", "ExitCode") == ["1:0"]
    pages = tiny.root / "book" / "_build" / "html"
    assert (pages / "experiments" / "tiny.html").exists()
    (failed,) = [row for row in tiny.status() if row["state"] == "failed"]
    assert (failed["folder"], failed["log"]) == (str(folder), str(tiny.runs / "jobs" / f"{array}_0.log"))
    for said in (failed["reason"], (pages / "status.html").read_text()):
        assert f"in use by process {os.getpid()}" in said

    again = tiny.guidebook("submit", "tiny", "--profile", "demo", *words).stdout
    assert re.fullmatch(r"tiny/demo, seed 1: complete\n\d+_0  tiny/demo, seed 0\n\d+  the book\nfollow.*\n", again)
    slurm.wait(again.split("_0 ")[0].splitlines()[-1], "COMPLETED", 120)
    slurm.run("scancel", "--me")
    assert tiny.guidebook("submit", "tiny", "--profile", "demo", *words).stdout.endswith("nothing to submit\n")
    tally(7, "SLURM: a failing task", 1, 1, "exit status 1; the book was built without it; submitted again alone")


def test_a_task_that_a_person_stops_stays_stopped_until_it_is_submitted_again(tiny, slurm, unbroken, tally):
    array, book = tiny.submit()
    training(tiny)
    (tiny.run() / "STOP").touch()
    slurm.wait(array, "FAILED", 60)
    assert slurm.show(array, "ExitCode") == ["75:0"]
    assert "stopped by a file STOP in the run folder" in tiny.log(f"{array}_0")
    time.sleep(8)  # a requeued job would be back by now
    assert (slurm.state(array), slurm.restarts(array)) == ("FAILED", 0)
    slurm.wait(book, "COMPLETED", 300)
    study.configure(tiny.root)
    (tiny.run() / "STOP").touch()  # in vain, while nothing ran
    array = tiny.array()
    slurm.wait(array, "COMPLETED", 120)
    assert gone_on(tiny, unbroken)
    tally(1, "SLURM: touch STOP", 1, 1, "saved, not requeued; submitted again it went on; weights equal")


def test_where_preemption_cancels_dependent_jobs_take_over_and_the_book_waits_for_them(
    root, cancelling, unbroken, tmp_path, tally
):
    study.configure(root, environment=paced(0.25))
    tiny = Study(root, tmp_path / "runs", cancelling.env)
    array, book = tiny.submit("--seeds", "0,1")
    training(tiny, 0)
    training(tiny, 1)
    urgent = cancelling.submit("sleep 5", "--exclusive", "--partition=urgent")
    cancelling.wait(urgent, "RUNNING", 60)
    heirs = []
    for task in (f"{array}_0", f"{array}_1"):
        assert "saved; run again to go on" in tiny.log(task)
        heirs += re.findall(r"job (\d+_\d) takes over", tiny.log(task))
        assert cancelling.state(task) != "PENDING"  # not requeued
    assert [heir[-2:] for heir in heirs] == ["_0", "_1"]
    assert {cancelling.state(job) for job in (*heirs, book)} == {"PENDING"}
    assert {row["job"]: row["folder"] for row in tiny.status() if row["job"]} == {
        heirs[0]: str(tiny.run(0)), heirs[1]: str(tiny.run(1)), book: str(root / "book"),
    }  # fmt: skip
    waited = cancelling.show(book, "Dependency")[0]
    assert all(heir.partition("_")[0] in waited for heir in heirs)
    study.configure(root)
    for heir in heirs:
        cancelling.wait(heir, "COMPLETED", 400)
        assert cancelling.restarts(heir) == 0
    assert gone_on(tiny, unbroken)
    cancelling.wait(book, "COMPLETED", 300)
    tally(
        1,
        "SLURM: preempted where PreemptMode=CANCEL",
        2,
        2,
        "dependent jobs took over; nothing repeated; weights equal",
    )


def test_where_preemption_cancels_scancel_is_final_all_the_same(root, cancelling, tmp_path):
    study.configure(root, environment=paced(1))
    tiny = Study(root, tmp_path / "runs", cancelling.env)
    array = tiny.array()
    training(tiny, 0, 16)
    cancelling.run("scancel", f"{array}_0")
    cancelling.wait(array, "CANCELLED", 60)
    assert "takes over" not in tiny.log("*")
    cancelling.run("scancel", "--me")


def test_a_job_asks_for_what_the_file_of_the_cluster_says(tiny, slurm):
    options = ["--hold", "--constraint=quick", '--comment="two words"', "--mail-user=me@example.org", "--mail-type=END"]
    book = {"time": "7:00", "gpus": 0, "sbatch": ["--hold"]}
    study.configure(
        tiny.root, gpus="fake:1", throttle=1, sbatch=options, logs=str(tiny.runs / "logs"),
        overrides={"tiny": {"time": "9:00", "memory": "1G"}, "book": book},
    )  # fmt: skip
    array, book = tiny.submit("--seeds", "0,1")
    shown = {key: set(slurm.show(array, key)) for key in ("TimeLimit", "Features", "ArrayTaskThrottle", "MailUser")}
    assert shown == {
        "TimeLimit": {"00:09:00"},
        "Features": {"quick"},
        "ArrayTaskThrottle": {"1"},
        "MailUser": {"me@example.org"},
    }
    text = slurm.scontrol("show", "job", array)
    assert "Comment=two words" in text
    assert "TresPerNode=gres:gpu:fake:1" in text
    assert "mem=1G" in text
    assert f"StdOut={tiny.runs}/logs/{array}_" in text
    assert slurm.show(book, "TimeLimit") == ["00:07:00"]
    assert not slurm.show(book, "TresPerNode")
    assert slurm.show(book, "StdOut") == [f"{tiny.runs}/logs/book-{book}.log"]
    slurm.run("scancel", "--me")


def test_a_cancelled_task_stays_cancelled(tiny, slurm):
    study.configure(tiny.root, environment=paced(1))
    array, book = tiny.submit("--seeds", "0,1")
    training(tiny, 0, 16)
    training(tiny, 1, 16)
    for task in ("1", "0"):  # one of them has the number of the whole array
        slurm.run("scancel", f"{array}_{task}")
        slurm.wait(f"{array}_{task}", "CANCELLED", 60)
    time.sleep(8)  # a requeued job would be back by now
    for task in ("1", "0"):
        assert slurm.state(f"{array}_{task}") == "CANCELLED"
        assert slurm.restarts(f"{array}_{task}") == 0
    slurm.wait(book, "COMPLETED", 300)
    assert {row["state"] for row in tiny.status()} == {"stopped"}


def test_what_would_wait_for_ever_is_refused_and_nothing_is_submitted(tiny, slurm):
    unavailable = "Requested node configuration is not available"
    requests = [({"cpus": 3}, unavailable), ({"gpus": 2}, unavailable), ({"memory": "9G"}, unavailable)]
    requests += [({"nodes": 2}, unavailable), ({"partition": "night"}, "Invalid partition name specified")]
    for change, said in requests:
        study.configure(tiny.root, **change)
        done = tiny.guidebook("submit", "tiny", "--profile", "demo", check=False)
        assert done.returncode == 1
        assert f"sbatch refused: {said} (the request is in params/cluster.yml)" in done.stderr
        assert done.stderr.count("\n") == 1
        tried = tiny.guidebook("submit", "tiny", "--profile", "demo", "--dry-run", check=False)
        assert (tried.returncode, tried.stdout.count("#!/bin/bash")) == (1, 2)
        assert f"it would be refused: sbatch refused: {said}" in tried.stderr
    assert not (tiny.runs / "jobs").exists()


def test_a_run_that_is_queued_is_not_submitted_again(tiny, slurm):
    array = tiny.array("--set", "train.epochs=2")
    again = tiny.guidebook("submit", "tiny", "--profile", "demo", "--set", "train.epochs=2").stdout
    assert again == f"tiny/demo: in the queue already, as job {array}_0\nnothing to submit\n"
    slurm.run("scancel", "--me")


def test_a_task_on_two_nodes_shares_each_batch_between_them(root, two_nodes, unbroken, tmp_path, tally):
    study.configure(root, nodes=2)
    tiny = Study(root, tmp_path / "runs", two_nodes.env)
    array = tiny.array("--set", "train.epochs=7")
    two_nodes.wait(array, {"COMPLETED", "FAILED"}, 300)
    assert two_nodes.state(array) == "COMPLETED", tiny.log("*")
    found, alone = opened(tiny.run()), opened(unbroken)
    assert found.provenance()["processes"] == 2
    losses = [(row["nimg"], pytest.approx(row["loss"], rel=2e-3)) for row in alone.stats()]
    assert [(row["nimg"], row["loss"]) for row in found.stats()] == losses[: len(found.stats())]
    assert len(found.stats()) >= 3
    tally(2, "SLURM: a task on two nodes", 1, 1, "the losses of one process, up to the order of floating-point sums")
