"""Every run in one table: the state of the study."""

from guidebook.lock import held
from guidebook.run import Run, all_runs
from guidebook.training import updates


def overview() -> list[dict]:
    """One row per run and variant, live or recorded."""
    return [_row(run) for run in all_runs()]


def state(run: Run) -> str:
    """`recorded`, `complete`, `training`, `trained` (its notebook is not complete) or `stopped`."""
    if run.recorded:
        return "recorded"
    if held(run.path):
        return "training"
    if not (run.path / "model").is_dir():
        return "stopped"
    return "complete" if run.finished else "trained"


def _row(run: Run) -> dict:
    facts, stats, metrics = run.provenance(), run.stats(), run.metrics(metric="adherence")
    drawn = [r for r in metrics if r["guidance"] is not None]
    best = max(drawn, key=lambda r: r["value"], default=None)
    return {
        "run": run.name,
        "state": state(run),
        "images seen": stats[-1]["nimg"] if stats else 0,
        "of": updates(run.params) * run.params.train.batch,
        "images/s": round(stats[-1]["images_per_s"]) if stats else None,
        "data": run.params.data.name,
        "text": run.params.text.encoder,
        "device": facts.get("device"),
        "commit": (facts.get("commit") or "")[:8],
        "best adherence": f"{100 * best['value']:.1f} % at w = {best['guidance']:g}, n = {best['n']}" if best else None,
    }
