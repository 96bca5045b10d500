"""The state of every run and submitted job."""

import logging

from guidebook.config.budget import images
from guidebook.runs import checkpoints
from guidebook.runs.lock import held
from guidebook.runs.manifest import Corrupt
from guidebook.runs.run import Run, every_run
from guidebook.runs.trainings import turn
from guidebook.slurm.submit import ENDED, SubmitError, failure, jobs

log = logging.getLogger(__name__)
# States, in the order of a table's rows
ORDER = (
    "training", "sampling", "running", "queued", "failed", "stopped", "trained", "corrupt", "complete", "recorded",
)  # fmt: skip


def overview(runs: list[Run]) -> list[dict]:
    """One row per run: the book's table."""
    return [_row(run) for run in runs]


def everything() -> list[dict]:
    """One row per run folder, and per job that has none and is queued or failed: what runs comes first, records last.

    A failed job's row holds `reason`, the last line of its log, and `log`.
    """
    rows, found = [], []
    try:
        found = jobs()
    except SubmitError as error:  # the queue cannot be asked, the runs can
        log.warning("%s", error)
    latest = {job["folder"]: job for job in found}  # a run that was submitted again has a later one
    for run in every_run():
        try:
            row = _row(run)
        except Corrupt as error:
            log.warning("%s", error)
            row = {"run": run.name, "seed": run.params.train.seed, "state": "corrupt"}
        rows.append(row | {"folder": str(run.path)} | _job(latest.pop(str(run.path), None), row["state"]))
    others = [{"run": job["name"], "folder": job["folder"]} | _job(job, "stopped") for job in latest.values()]
    rows += [row for row in others if row["state"] != "stopped"]
    return sorted(rows, key=lambda row: ORDER.index(row["state"]))


def state(run: Run) -> str:
    """`recorded`, `complete`, `training`, `sampling`, `trained` (its notebook is not complete) or `stopped`."""
    if run.recorded:
        return "recorded"
    if held(run.path):
        return "sampling" if run.trained else "training"
    return "stopped" if not run.trained else "complete" if run.finished else "trained"


def _job(job: dict | None, state: str) -> dict:
    """The newest job of a run, and the state that it gives the run where nothing works on it and it is not complete."""
    row = {"state": state, "job": None, "job state": None, "job time left": None}
    undone = state in ("stopped", "trained")
    if job and job["state"] != ENDED:
        if undone:
            row["state"] = "queued" if job["state"] == "PENDING" else "running"
        reason = f" ({job['reason']})" if job["state"] == "PENDING" else ""
        row |= {"job": job["job"], "job state": job["state"] + reason, "job time left": job["left"]}
    elif job and undone and (reason := failure(job)):
        row |= {"state": "failed", "reason": reason, "log": job["log"]}
    return row


def _row(run: Run) -> dict:
    facts, last, now = run.provenance(), (run.stats() or [{}])[-1], state(run)
    read = run.metrics(metric="adherence")
    real = next((f", real images {100 * r['value']:.1f} %" for r in read if r["guidance"] is None), "")  # its ceiling
    best = max((r for r in read if r["guidance"] is not None), key=lambda r: r["value"], default=None)
    seen, total, rate = last.get("nimg", 0), images(run.params), last.get("images_per_s")
    if now == "stopped":  # lines of statistics are not written at the moment of a stop: what is saved counts
        seen = max(map(checkpoints.images, checkpoints.saved(run.path / "checkpoints")), default=0)
    return {
        "run": run.name,
        "seed": run.params.train.seed,
        "state": now,
        "training": turn(run) if now == "training" else "",
        "images seen": seen,
        "of": total,
        "images/s": round(rate) if rate else None,
        "seconds left": round((total - seen) / rate) if rate and now == "training" else None,
        "loss": last.get("loss"),
        "data": run.params.data.name,
        "text": run.params.text.encoder,
        "device": facts.get("device"),
        "commit": (facts.get("commit") or "")[:8],
        "best adherence": best and f"{100 * best['value']:.1f} % at w = {best['guidance']:g}, n = {best['n']}{real}",
    }
