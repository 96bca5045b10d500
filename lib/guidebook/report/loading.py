"""The page on loading: the parts of a training step, ways to read images, batch sizes, and the verdicts on both."""

import statistics
from collections.abc import Sequence

from guidebook.metrics.compare import FAILS, HOLDS, UNDECIDED
from guidebook.report.performance import MISSING, where
from guidebook.report.tables import Html, escaped, table
from guidebook.runs.run import Run

# Milliseconds in the thesis's table 3, at batch 16 on an A100, in the order of a step
PUBLISHED = {
    "data": 1857.2, "to device": 0.5, "text": 78.8, "caption dropout": 9.0, "noise": 8.3, "forward": 272.6, "loss": 7.2,
    "backward": 405.9,
}  # fmt: skip


def profile(run: Run) -> Html:
    """The parts of a training step, in the first epoch and in later ones, beside the thesis's."""
    epochs = _by_epoch(run)
    if not epochs:
        return Html("<p><em>This run was recorded before steps were measured by their parts.</em></p>")
    columns = {name: {p: statistics.mean(x[p] for x in lines) for p in lines[0]} for name, lines in epochs.items()}
    columns["thesis"] = PUBLISHED
    parts = dict.fromkeys(part for ms in columns.values() for part in ms)
    heads, rows = ["part"], [[part] for part in (*parts, "together")]
    for name, ms in columns.items():
        heads += [f"{name} (ms)", "share"]
        total = sum(ms.values())
        for part, row in zip(parts, rows, strict=False):
            row += [f"{ms[part]:,.2f}", f"{ms[part] / total:.1%}"] if part in ms else ["–", "–"]
        rows[-1] += [f"{total:,.2f}", ""]
    return table(heads, rows)


# A median ± so many times the range of as many repeats holds the true median 19 times in 20, of normal errors (simulated)
REACH = {3: 1.34, 4: 0.74, 5: 0.56, 6: 0.43}


def data_share(run: Run) -> tuple[str, tuple[str, str]]:
    """The share of a step that waits for data, and the verdict on the claim of 70.4 %."""
    shares, least, most = [], 0.0, 100.0
    for name, lines in _by_epoch(run).items():
        share = [100 * line["data"] / sum(line.values()) for line in lines]
        least, most = min(share), max(share)  # of later epochs, where there are some
        mean = 100 * sum(line["data"] for line in lines) / sum(sum(line.values()) for line in lines)
        span = f"{least:.2f} to {most:.2f} % over stretches of steps"
        shares.append(f"{mean:.2f} % of a step in the {name} ({span})")
    found = f"waiting for data takes {' and '.join(shares)}" if shares else "not measured in this run"
    return found, (FAILS if most < 70.4 else HOLDS if least > 70.4 else UNDECIDED, "")


def sequential(reports: Sequence[dict]) -> tuple[str, tuple[str, str]]:
    """Reading file after file against random access, and the verdict on the claim of at least 20 times as fast."""
    text, low, high = _ratios(reports, "{value:.1f} times as fast [{low:.1f}, {high:.1f}]", "file after file")
    note = "the document's files are larger"
    return text, (HOLDS if low >= 20 else FAILS if high < 20 else UNDECIDED, note)


def batch_growth(reports: Sequence[dict]) -> tuple[str, tuple[str, str]]:
    """The time of a step with four times the images, and the verdict on the claim that it hardly grows."""
    form = "a step with four times the images takes {value:.2f} times as long [{low:.2f}, {high:.2f}]"
    text, low, high = _ratios(reports, form)
    return text, (HOLDS if high < 1.2 else FAILS if low > 1.2 else UNDECIDED, "here loading costs nothing")


def _ratios(reports: Sequence[dict], form: str, name: str | None = None) -> tuple[str, float, float]:
    """The ratios of a name (or all) as text, with the least and the greatest end of their 95 % intervals."""
    of = [(report["made"], r) for report in reports for r in report["ratios"] if name in (None, r["name"])]
    text = "; ".join(form.format(**r) + " on {experiment}/{profile}".format(**made) for made, r in of)
    ratios = [r for _, r in of]
    ends = [(r["value"], REACH[min(r["repeats"], max(REACH))] * (r["high"] - r["low"])) for r in ratios]
    return (
        text or "not measured yet",
        min((v - e for v, e in ends), default=0),
        max((v + e for v, e in ends), default=float("inf")),
    )


def cost(reports: Sequence[dict]) -> Html:
    """Each way to read images: time, memory and the entropy of its order."""
    if not reports:
        return MISSING
    rows = []
    for report in reports:
        floor = next(row["speed"]["median"] for row in report["rows"] if row["name"] == "decoder alone, at 1/8")
        for row in sorted(report["rows"], key=lambda row: -row["speed"]["median"]):
            speed, more = row["speed"]["median"], "{batch_s:.4f} {first_s:.2f} {memory_mb:,.0f} {entropy:.2f}"
            cells = more.format(**row).split() if "entropy" in row else [""] * 4
            rows.append([row["name"], f"{speed:,.1f}", f"{speed / floor:,.2f}", *cells])
        rows.append(["random order, for comparison", *[""] * 5, f"{report['made']['entropy_random']:.2f}"])
    heads = ["way", "images/s", "of the floor", "batch (s)", "first batch (s)", "memory (MB)", "order (bits)"]
    return table(heads, rows)


def growth(reports: Sequence[dict]) -> Html:
    """Time and memory of a first epoch as the set grows, and the other laws of loading."""
    if not reports:
        return MISSING
    made = reports[0]["made"]
    rows = [[f"{g['rows']:,}", f"{g['ms_per_image']:.2f}", f"{g['memory_mb']:,.0f}"] for g in made["growth"]]
    held = " and ".join(f"{e['memory_mb']:.0f} MB over {e['epochs']}" for e in made["epochs"])
    text = (
        "One window holds {window_mb:.0f} MB of encoded images; peak memory was {held} epochs. The first batch from a random place, "
        "with 1 to 4 threads, came after {resume_s[median]:.2f} s [{resume_s[low]:.2f}, {resume_s[high]:.2f}], of {resumes} tries. The "
        "PSNR of images decoded at a smaller scale, against the full ones made smaller, is {psnr_db[median]:.1f} dB "
        "[{psnr_db[low]:.1f}, {psnr_db[high]:.1f}], of {compared} images."
    )
    below = escaped(text.format(held=held, **made))
    return Html(f"{table(['images in the set', 'ms per image', 'memory (MB)'], rows).text}<p>{below}</p>")


def batches(reports: Sequence[dict]) -> Html:
    """Time and memory of a step by batch size, beside the thesis's."""
    rows = [["thesis, A100", *cells.split("|")] for cells in ("16|2,640|8,000|5,063|3.7 h", "64|2,800|–|1,266|0.99 h")]
    for setting, row in [(where(report), row) for report in reports for row in report["rows"]]:
        step = "{:,.1f} [{:,.1f}, {:,.1f}]".format(*(1000 * row["step_s"][k] for k in ("median", "low", "high")))
        more = (f"{row['memory_mb']:,.0f}", f"{row['steps_per_epoch']:,}", f"{row['epoch_s']:.1f} s")
        rows.append([setting, row["batch"], step, *more])
    return table(["of", "batch", "step (ms)", "memory (MB)", "steps an epoch", "an epoch takes"], rows)


def _by_epoch(run: Run) -> dict[str, list[dict]]:
    """Milliseconds by part of all lines but the first, which warms up: of the first epoch, and of later ones."""
    stats = run.stats()
    epoch = stats[-1]["nimg"] / run.params.train.epochs if stats else 0
    measured = [(line["nimg"], line["ms_by_part"]) for line in stats[1:] if line.get("ms_by_part")]
    first, later = [p for n, p in measured if n <= epoch], [p for n, p in measured if n > epoch]
    return {name: lines for name, lines in (("first epoch", first), ("later epochs", later)) if lines}
