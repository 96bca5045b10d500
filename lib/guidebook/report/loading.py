"""What the page on loading shows: where a step's time goes, ways to get batches, sizes of a batch; and what holds of the claims."""

import itertools
import statistics
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from guidebook.report.figures import COLOURS
from guidebook.report.performance import missing, where
from guidebook.report.tables import Html, table
from guidebook.runs.run import Run
from guidebook.training.profiler import PARTS

# Milliseconds in the thesis's table 3, at batch 16 on an A100
PUBLISHED = {
    "data": 1857.2, "to device": 0.5, "text": 78.8, "caption dropout": 9.0, "noise": 8.3, "forward": 272.6, "loss": 7.2,
    "backward": 405.9,
}  # fmt: skip


def profile(run: Run) -> Html:
    """The parts of a training step, in the first epoch and in later ones, beside the thesis's."""
    found = _by_epoch(run)
    if not found:
        return Html("<p><em>This run was recorded before steps were measured by their parts.</em></p>")
    means = [{part: statistics.mean(line[part] for line in lines) for part in lines[0]} for lines in found.values()]
    columns = [*means, PUBLISHED]
    rows = []
    for part in dict.fromkeys((*PARTS, *PUBLISHED)):
        pairs = [(f"{c[part]:,.2f}", f"{c[part] / sum(c.values()):.1%}") if part in c else ("–", "–") for c in columns]
        rows.append([part, *itertools.chain(*pairs)])
    rows.append(["together", *itertools.chain(*((f"{sum(c.values()):,.2f}", "") for c in columns))])
    return table(["part", *itertools.chain(*((f"{name} (ms)", "share") for name in (*found, "thesis")))], rows)


def data_share(run: Run) -> tuple[str, str]:
    """What was found, and the verdict, on the share of a step that waits for data."""
    told, worst = [], 0.0
    for name, lines in _by_epoch(run).items():
        share = [100 * line["data"] / sum(line.values()) for line in lines]
        whole = 100 * sum(line["data"] for line in lines) / sum(sum(line.values()) for line in lines)
        told.append(
            f"{whole:.2f} % of a step in the {name} (by line of statistics {min(share):.2f} to {max(share):.2f} %)"
        )
        worst = max(share)  # of later epochs, where there are some
    if not told:
        return "not measured in this run", "undecided"
    return "waiting for data takes " + " and ".join(told), "need not hold" if worst < 70.4 else "holds"


def sequential(reports: Sequence[dict]) -> tuple[str, str]:
    """The same on reading file after file against random access."""
    found = [r for report in reports for r in report["ratios"] if r["name"] == "file after file"]
    if not found:
        return "not measured yet", "undecided"
    low, high = min(r["low"] for r in found), max(r["high"] for r in found)
    said = "; ".join(f"{r['value']:.1f} times as fast [{r['low']:.1f}, {r['high']:.1f}]" for r in found)
    return said, "holds" if low >= 20 else "does not hold here: its files are larger" if high < 20 else "undecided"


def batch_growth(reports: Sequence[dict]) -> tuple[str, str]:
    """The same on a batch four times as large."""
    found = [r for report in reports for r in report["ratios"]]
    if not found:
        return "not measured yet", "undecided"
    said = "; ".join(
        f"a step with four times the images takes {r['value']:.2f} times as long [{r['low']:.2f}, {r['high']:.2f}]"
        for r in found
    )
    low, high = min(r["low"] for r in found), max(r["high"] for r in found)
    return said, "holds" if high < 1.2 else "does not hold where loading costs nothing" if low > 1.2 else "undecided"


def ways(reports: Sequence[dict]) -> Figure | Html:
    """Images per second of every way: the median, and the least and most of the repeats."""
    if not reports:
        return missing()
    height = sum(0.28 * len(r["rows"]) + 0.7 for r in reports)
    figure, panels = plt.subplots(len(reports), 1, figsize=(6.4, height), squeeze=False)
    for axes, report in zip(panels[:, 0], reports, strict=True):
        rows = sorted(report["rows"], key=lambda row: row["speed"]["median"])
        for y, row in enumerate(rows):
            colour = "0.6" if "entropy" not in row else COLOURS[0 if row["name"].startswith("guidebook") else 1]
            axes.hlines(y, row["speed"]["low"], row["speed"]["high"], color=colour, linewidth=2)
            axes.plot(row["speed"]["median"], y, "o", color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
        axes.set(xlabel="images per second", xscale="log")
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_title(f"{where(report)}, {report['made']['workers']} workers", fontsize=9, loc="left")
    figure.tight_layout()
    return figure


def cost(reports: Sequence[dict]) -> Html:
    """Time, memory and order of every way."""
    if not reports:
        return missing()
    rows = []
    for report in reports:
        best = report["made"]["entropy_random"]
        floor = next(row["speed"]["median"] for row in report["rows"] if row["name"] == "decoder alone, at 1/8")
        for row in sorted(report["rows"], key=lambda row: -row["speed"]["median"]):
            told = ["", "", "", ""]
            if "entropy" in row:
                told = [
                    f"{row['batch_s']:.4f}",
                    f"{row['first_s']:.2f}",
                    f"{row['memory_mb']:,.0f}",
                    f"{row['entropy']:.2f}",
                ]
            speed = row["speed"]["median"]
            rows.append([row["name"], f"{speed:,.1f}", f"{speed / floor:,.2f}", *told])
        rows.append(["random order, for comparison", "", "", "", "", "", f"{best:.2f}"])
    return table(
        ["way", "images/s", "of the floor", "batch (s)", "first batch (s)", "memory (MB)", "order (bits)"], rows
    )


def growth(reports: Sequence[dict]) -> Html:
    """What a first epoch takes as the set grows, and the other laws."""
    if not reports:
        return missing()
    made = reports[0]["made"]
    rows = [[f"{g['rows']:,}", f"{g['ms_per_image']:.2f}", f"{g['memory_mb']:,.0f}"] for g in made["growth"]]
    psnr, resume = made["psnr_db"], made["resume_s"]
    held = " and ".join(f"{e['memory_mb']:.0f} MB over {e['epochs']}" for e in made["epochs"])
    said = (
        f"<p>One window holds {made['window_mb']:.0f} MB of encoded images; the most that was held was {held} epochs. The first "
        f"batch from a random place, with 1 to 4 threads, is there after {resume['median']:.2f} s [{resume['low']:.2f}, {resume['high']:.2f}], of "
        f"{made['resumes']} tries. Decoded at a smaller scale an image is "
        f"{psnr['median']:.1f} dB from the whole one made smaller [{psnr['low']:.1f}, {psnr['high']:.1f}], of {made['compared']}.</p>"
    )
    return Html(table(["paintings", "ms per image", "memory (MB)"], rows).text + said)


def batches(reports: Sequence[dict]) -> Html:
    """Time and memory of a step by batch size, and the thesis's."""
    rows = [
        ["thesis, A100", "16", "2,640", "8,000", "5,063", "3.7"],
        ["thesis, A100", "64", "2,800", "–", "1,266", "0.99"],
    ]
    for report in reports:
        for row in report["rows"]:
            s = row["step_s"]
            step = f"{1000 * s['median']:,.1f} [{1000 * s['low']:,.1f}, {1000 * s['high']:,.1f}]"
            epoch = f"{row['epoch_s'] / 3600:.4f}"
            rows.append(
                [
                    where(report),
                    str(row["batch"]),
                    step,
                    f"{row['memory_mb']:,.0f}",
                    f"{row['steps_per_epoch']:,}",
                    epoch,
                ]
            )
    return table(["of", "batch", "step (ms)", "memory (MB)", "steps an epoch", "hours an epoch"], rows)


def _by_epoch(run: Run) -> dict[str, list[dict]]:
    """Milliseconds by part of all lines but the first, which warms up: of the first epoch, and of later ones."""
    stats = run.stats()
    epoch = stats[-1]["nimg"] / run.params.train.epochs if stats else 0
    found: dict[str, list[dict]] = {"first epoch": [], "later epochs": []}
    for line in stats[1:]:
        if parts := line.get("ms_by_part"):
            found["first epoch" if line["nimg"] <= epoch else "later epochs"].append(parts)
    return {name: lines for name, lines in found.items() if lines}
