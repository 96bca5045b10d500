"""What the book's page on performance shows: figures and tables of the reports, all of a bench side by side."""

import json
from collections import Counter
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from guidebook.config.paths import RESULTS
from guidebook.report.figures import COLOURS
from guidebook.report.tables import Html, table

FOLDER = RESULTS / "bench"  # where `python -m bench` keeps what it measured


def read(name: str) -> list[dict]:
    """The reports of a bench, one for each setting and kind of device it was measured on."""
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob(f"{name}-*.json"))]


def speeds(reports: Sequence[dict]) -> Figure | Html:
    """Images per second of every row that was timed: the median, and the least and most of the repeats. One panel a report."""
    if not reports:
        return missing()
    timed = [[r for r in report["rows"] if r["speed"]] for report in reports]
    height = sum(0.26 * len(rows) + 0.8 for rows in timed)
    options = {"height_ratios": [len(rows) + 3 for rows in timed], "hspace": 0.4}
    figure, panels = plt.subplots(len(reports), 1, figsize=(7.2, height), squeeze=False, gridspec_kw=options)
    for axes, report, rows in zip(panels[:, 0], reports, timed, strict=True):
        for y, row in enumerate(reversed(rows)):
            s, colour = row["speed"], COLOURS[0 if row["name"].startswith("library") else 1]
            axes.hlines(y, s["low"], s["high"], color=colour, linewidth=2)
            axes.plot(s["median"], y, "o", color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [r["name"] for r in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(left=0)
        axes.set(xlabel="images per second")
        axes.set_title(where(report), fontsize=9, loc="left")
    return figure


def quality(reports: Sequence[dict]) -> Figure | Html:
    """Distance to the train split, with its interval, against evaluations of the network. The band is the pipeline's interval."""
    if not reports:
        return missing()
    figure, panels = plt.subplots(1, len(reports), figsize=(4.6 * len(reports), 3.2), squeeze=False)
    for axes, report in zip(panels[0], reports, strict=True):
        peer, *others = [r for r in report["rows"] if r["name"] != "pipeline, bf16"]  # the images are the same
        axes.axhspan(peer["fd_judge"]["low"], peer["fd_judge"]["high"], color="0.5", alpha=0.15, linewidth=0)
        samplers, beside = list(dict.fromkeys(r["sampler"] for r in others)), Counter()
        for row in others:
            fd, colour = row["fd_judge"], COLOURS[samplers.index(row["sampler"]) % len(COLOURS)]
            shift = 1 + 0.03 * beside[row["evaluations"]]  # points with as much work stand beside each other
            beside[row["evaluations"]] += 1
            axes.errorbar(
                shift * row["evaluations"], fd["value"], [[fd["value"] - fd["low"]], [fd["high"] - fd["value"]]],
                color=colour, marker="s" if row["method"] else "o", markersize=4, capsize=2, linewidth=1.2,
            )  # fmt: skip
        for name, colour in zip(samplers, COLOURS, strict=False):
            axes.plot([], [], "o", color=colour, markersize=4, label=name)
        axes.legend(fontsize=8)
        axes.set(xlabel="evaluations of the network per image", xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(LogLocator(subs=(2, 4, 6)))
            axis.set_minor_formatter("{x:g}")
        axes.set_ylabel("Fréchet distance to the train split\n(judge's features)")
        axes.set_title(where(report), fontsize=9, loc="left")
    figure.tight_layout()
    return figure


def ratios(reports: Sequence[dict]) -> Html:
    """Every ratio with the range of its repeats."""
    rows = [
        {
            **_on(report, reports), "what": r["name"], "ratio": f"{r['value']:.2f} × [{r['low']:.2f}, {r['high']:.2f}]",
            "repeats": r["repeats"], "of / by": r["what"],
        }
        for report in reports for r in report["ratios"]
    ]  # fmt: skip
    return _table(rows)


def training_cost(reports: Sequence[dict]) -> Html:
    """What each way to train costs: memory, the first step, how far its gradient is from fp32; and how much of the device it uses."""
    rows = [
        {
            **_on(report, reports), "way": r["name"], "images/s": f"{r['speed']['median']:,.1f}",
            "memory (MB)": _number(r["memory_mb"], ",.0f"), "share of peak (%)": _number(r["share_of_peak"], ".1f", 100),
            "first step (s)": f"{r['first_step_s']:.1f}", "gradient off by (%)": _number(r["gradient_error"], ".3f", 100),
        }
        for report in reports for r in report["rows"]
    ]  # fmt: skip
    return _table(rows)


def sampling_cost(reports: Sequence[dict]) -> Html:
    """How fast each way to sample is, and how far its images are from the pipeline's in fp32."""
    rows = [
        {
            **_on(report, reports), "way": r["name"], "steps": r["steps"], "images/s": f"{r['speed']['median']:,.2f}",
            "largest difference of a pixel (of 255)": r["max_difference"],
        }
        for report in reports for r in report["rows"]
    ]  # fmt: skip
    return _table(rows)


def quality_cost(reports: Sequence[dict]) -> Html:
    """Every way that was tried for equal quality, those that were not good enough to be timed among them."""
    rows = [
        {
            **_on(report, reports), "way": r["name"], "evaluations": r["evaluations"],
            "fd_judge": "{value:.1f} [{low:.1f}, {high:.1f}]".format(**r["fd_judge"]), "n": r["fd_judge"]["n"],
            "images/s": f"{r['speed']['median']:,.2f}" if r["speed"] else "not as good, not timed",
        }
        for report in reports for r in report["rows"]
    ]  # fmt: skip
    return _table(rows)


def latents_cost(reports: Sequence[dict]) -> Html:
    """What an image is to each way to train, how fast the way is and what memory it takes."""
    rows = [
        {
            **_on(report, reports), "way": r["name"], "numbers learnt of an image": f"{r['elements']:,}",
            "a step (s)": f"{r['step_s']:,.3g}", "images/s": f"{r['speed']['median']:,.3g}", "memory (MB)": f"{r['memory_mb']:,.0f}",
            "forward (GFLOP)": f"{r['gflops']:,.0f}",
        }
        for report in reports for r in report["rows"]
    ]  # fmt: skip
    return _table(rows)


def latents_sample(reports: Sequence[dict]) -> Html:
    """One image drawn at the published size, and what is kept and said of one."""
    rows = [
        {
            **_on(report, reports), "U-Net": f"{f['parameters']:,} in {f['precision']}",
            "autoencoder": f"{f['vae_parameters']:,}, {f['weights']} weights", "text encoder": f["text_encoder"],
            "a sample, its decoding (s)": f"{f['sample_s']:,.1f} + {f['decode_s']:,.2f}",
            "memory (MB)": f"{f['sample_mb'] or f['memory_mb']:,.0f}", "latents kept (bytes)": f"{f['bytes_per_image']:,}",
            "captions/s": f"{f['captions_per_s']:,.0f}",
        }
        for report in reports for f in [report["made"]]
    ]  # fmt: skip
    return _table(rows)


def where(report: dict) -> str:
    """`cifar10/demo on Intel Xeon, 2 threads`."""
    made = report["made"]
    many = "" if made["cores"] == 1 else "s"
    cores = f", {made['cores']} thread{many}" if made["kind"] == "cpu" else ""
    return f"{made['experiment']}/{made['profile']} on {made['device']}{cores}"


def _on(report: dict, reports: Sequence[dict]) -> dict:
    """The column that tells reports apart, where there are several; the figures above say on which machine they were made."""
    made = report["made"]
    return {"on": f"{made['experiment']}/{made['profile']}, {made['kind']}"} if len(reports) > 1 else {}


def machines(*benches: Sequence[dict]) -> str:
    """What was measured where and when, in words."""
    said = {f"{where(r)} ({r['made']['date'][:10]}, torch {r['made']['torch']})": 0 for found in benches for r in found}
    return "; ".join(said) or "nothing was measured yet"


def missing() -> Html:
    return Html("<p><em>Not measured yet: <code>python -m bench</code> writes what would be shown here.</em></p>")


def _number(value: float | None, form: str, scale: float = 1) -> str:
    return "" if value is None else format(scale * value, form)


def _table(rows: list[dict]) -> Html:
    return table(list(rows[0]), [[str(cell) for cell in row.values()] for row in rows]) if rows else missing()
