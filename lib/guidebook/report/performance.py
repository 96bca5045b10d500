"""The page on performance: figures and tables of bench reports, every report of one bench side by side."""

import json
from collections import Counter
from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from guidebook.config.paths import RESULTS
from guidebook.report.charts import NAMES, errors
from guidebook.report.figures import COLOURS, label, logarithmic
from guidebook.report.tables import Html, below, escaped, table

MISSING = Html("<p><em>Not measured yet: <code>python -m bench</code> writes what would be shown here.</em></p>")
FOLDER = RESULTS / "bench"  # where `python -m bench` keeps what it measured
# Ratios of the whole, which a reader asks for first
WHOLE = (
    "training, same precision",
    "training, compiled",
    "sampling, equal outputs",
    "sampling, equal quality",
    "sampling, equal quality, bf16",
)
# Of the table of each bench: heads, and formats of a row's fields
COLUMNS = {
    "train": {
        "way": "{name}", "images/s": "{speed[median]:,.1f}", "memory (MB)": "{memory_mb:,.0f}", "share of peak": "{share_of_peak:.1%}",
        "first step (s)": "{first_step_s:.1f}", "gradient off by": "{gradient_error:.3%}",  # against fp32
    },
    "sample": {
        "way": "{name}", "steps": "{steps}", "images/s": "{speed[median]:,.2f}",
        "largest difference of a pixel (of 255)": "{max_difference}",  # to the pipeline's images in fp32
    },
    "quality": {
        "way": "{name}", "evaluations": "{evaluations}", "n": "{fd_judge[n]}",
        "fd_judge": "{fd_judge[value]:.1f} [{fd_judge[low]:.1f}, {fd_judge[high]:.1f}]",
        "images/s (– is not as good)": "{speed[median]:,.2f}",
    },
    "latents": {
        "way": "{name}", "numbers learnt of an image": "{elements:,}", "a step (s)": "{step_s:,.3g}",
        "images/s": "{speed[median]:,.3g}", "memory (MB)": "{memory_mb:,.0f}", "forward (GFLOP)": "{gflops:,.0f}",
        "forward (GMAC)": "{gmac:,.0f}",  # papers mean these: a multiply-add is two FLOP
    },
}  # fmt: skip


def read(name: str) -> list[dict]:
    """The reports of a bench, one for each setting and kind of device it was measured on."""
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob(f"{name}-*.json"))]


def speeds(reports: Sequence[dict], log: bool = False) -> Figure | Html:
    """Images per second: the median as a dot, from the slowest to the fastest repeat as a line. One panel per report."""
    if not reports:
        return MISSING
    timed = [[r for r in reversed(report["rows"]) if r["speed"]] for report in reports]
    if log:
        timed = [sorted(rows, key=lambda r: r["speed"]["median"]) for rows in timed]
    options = {"height_ratios": [len(rows) + 3 for rows in timed], "hspace": 0.9}
    figure = plt.figure(figsize=(7.2, sum(0.26 * len(rows) + 0.8 for rows in timed)))
    panels = figure.subplots(len(reports), squeeze=False, gridspec_kw=options)
    for axes, report, rows in zip(panels[:, 0], reports, timed, strict=True):
        for y, row in enumerate(rows):
            s, ours = row["speed"], row["name"].startswith(("library", "guidebook"))
            colour = "0.6" if row["name"].startswith("decoder") else COLOURS[0 if ours else 1]
            axes.hlines(y, s["low"], s["high"], color=colour, linewidth=2)
            axes.plot(s["median"], y, "o", color=colour, markersize=5)
        axes.set_yticks(range(len(rows)), [label(r["name"]) for r in rows])
        axes.set(xlabel="images per second", ylim=(-0.6, len(rows) - 0.4), xscale="log" if log else "linear")
        if not log:
            axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_title(label(where(report)), fontsize=9, loc="left")
    return figure


def quality(reports: Sequence[dict]) -> Figure | Html:
    """Distance to the train split [95 % interval] against evaluations of the network. The band is the pipeline's interval."""
    if not reports:
        return MISSING
    figure, panels = plt.subplots(len(reports), figsize=(7.2, 2.7 * len(reports)), squeeze=False, layout="tight")
    for axes, report in zip(panels[:, 0], reports, strict=True):
        peer, *others = [r for r in report["rows"] if r["name"] != "pipeline, bf16"]  # the images are the same
        axes.axhspan(peer["fd_judge"]["low"], peer["fd_judge"]["high"], color="0.5", alpha=0.15, linewidth=0)
        beside, samplers = Counter(), dict.fromkeys(r["sampler"] for r in others)
        colours = {name: plt.cm.tab10(k) for k, name in enumerate(samplers)}
        for row in others:
            shift = 1 + 0.03 * beside[row["evaluations"]]  # points with as much work stand beside each other
            beside[row["evaluations"]] += 1
            style = {"color": colours[row["sampler"]], "marker": "s" if row["method"] else "o"}
            errors(axes, [shift * row["evaluations"]], [row["fd_judge"]], **style)
        for name, colour in colours.items():
            axes.plot([], [], "o", color=colour, markersize=4, label=label(name))
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        axes.set(xlabel="evaluations of the network per image", ylabel=NAMES["fd_judge"])
        for axis in (axes.xaxis, axes.yaxis):
            logarithmic(axis)
        axes.set_title(label(where(report)), fontsize=9, loc="left")
    return figure


def ratios(reports: Sequence[dict]) -> Html:
    """Every ratio with the range of its repeats."""
    said = [{**report, "ratios": [r | {"says": _says(r)} for r in report["ratios"]]} for report in reports]
    columns = {"what, and of what by what": "{name}\n{what}", "ratio": "{value:.2f} × [{low:.2f}, {high:.2f}]"}
    return _table(said, columns | {"which says": "{says}", "repeats": "{repeats}"}, "ratios")


def findings(*benches: Sequence[dict]) -> Html:
    """Ratios of the whole, each with what its range says: faster, slower, or no difference."""
    found = [(report["made"], ratio) for bench in benches for report in bench for ratio in report["ratios"]]
    lines = []
    for name in WHOLE:
        form = "{experiment}/{profile} {value:.2f} × [{low:.2f}, {high:.2f}], "
        said = [form.format(**made, **ratio) + _says(ratio) for made, ratio in found if ratio["name"] == name]
        lines += [f"{name}: {'; '.join(said)}"] if said else []
    return Html("<ul>" + "".join(f"<li>{escaped(line)}</li>" for line in lines) + "</ul>" if lines else "")


def _says(ratio: dict) -> str:
    """Outcome of a ratio by its range: faster, slower, or no difference."""
    return "faster" if ratio["low"] > 1 else "slower" if ratio["high"] < 1 else "no difference shown"


def cost(reports: Sequence[dict], bench: str) -> Html:
    """Each way that a bench tried (`COLUMNS`), with its speed and what else it costs."""
    return _table(reports, COLUMNS[bench])


def latents_sample(reports: Sequence[dict]) -> Html:
    """One image drawn at the published size: networks, time, memory, bytes on the disk."""
    columns = {
        "U-Net": "{parameters:,} in {precision}", "autoencoder": "{vae_parameters:,}, {weights} weights",
        "text encoder": "{text_encoder}", "a sample, its decoding (s)": "{sample_s:,.1f} + {decode_s:,.2f}",
        "memory (MB)": "{most_mb:,.0f}", "latents kept (bytes)": "{bytes_per_image:,}", "captions/s": "{captions_per_s:,.0f}",
    }  # fmt: skip
    made = [r["made"] | {"most_mb": r["made"]["sample_mb"] or r["made"]["memory_mb"]} for r in reports]
    return _table([{"made": m, "rows": [m]} for m in made], columns)


def where(report: dict) -> str:
    """`cifar10/demo on Intel Xeon, 2 threads`."""
    made = report["made"]
    cores = f", {made['cores']} thread{'s' * (made['cores'] > 1)}" if made["kind"] == "cpu" else ""
    return "{experiment}/{profile} on {device}".format(**made) + cores


def machines(*benches: Sequence[dict]) -> str:
    """Where and when the benches were run, as text."""
    runs = {f"{where(r)} ({r['made']['date'][:10]}, torch {r['made']['torch']})": 0 for bench in benches for r in bench}
    return "; ".join(runs) or "nothing was measured yet"


def _table(reports: Sequence[dict], columns: dict[str, str], rows: str = "rows") -> Html:
    """A row per entry of the reports, each column a format string of its fields; `–` where a field has no value."""
    if not any(report[rows] for report in reports):
        return MISSING
    parts = []
    for report in reports:
        more = {"made": report["made"]}
        entries = [e | more | ({"gmac": e["gflops"] / 2} if "gflops" in e else {}) for e in report[rows]]
        cells = [[_cell(form, entry) for form in columns.values()] for entry in entries]
        shown = {head: column for head, *column in zip(columns, *cells, strict=True) if set(column) != {"–"}}
        above = f"<p><strong>{escaped(where(report))}</strong></p>" if len(reports) > 1 else ""
        parts += [above + table([*shown], [*zip(*shown.values(), strict=True)]).text] if cells else []
    return Html("".join(parts))


def _cell(form: str, entry: dict) -> Html | str:
    try:
        return below(*form.format(**entry).split("\n", 1))
    except TypeError:  # None has no format
        return "–"
