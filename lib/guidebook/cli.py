"""The `guidebook` command: words of the command line, and nothing else. Nothing heavy is imported before it is needed."""

import contextlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from guidebook import __version__

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="A reproducible study of guidance in text-to-image diffusion. Where no profile is named, `run`, `train` and `show` "
    "take `demo`, `submit` and `fetch` take `paper`.",
)  # fmt: skip
WHICH = "an experiment, as mnist or mnist/paper, or a params file of one's own, as PARAMS.yml"
Experiment = Annotated[str, typer.Argument(metavar="EXPERIMENT", help=WHICH)]
Experiments = Annotated[list[str], typer.Argument(metavar="EXPERIMENT…", help=WHICH)]
Profile = Annotated[str, typer.Option(help="of experiments that are named without one")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a parameter: train.epochs=5")]
Json = Annotated[bool, typer.Option("--json", help="for programs")]


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, typer.Option("--version", help="print it and exit")] = False) -> None:
    if version:
        print(f"guidebook {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs the command; an expected error is one line on stderr and exit status 1, not a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        app()
    except SystemExit as end:
        if type(end) is not SystemExit:  # preempted
            print(f"guidebook: {end}", file=sys.stderr)
        elif end.code == 130:  # Ctrl-C
            print("guidebook: interrupted; run again to go on", file=sys.stderr)
        # All is saved, and an interpreter with torch takes seconds to end. One of several processes has to part from the others.
        if end.code == 75 and int(os.environ.get("WORLD_SIZE", 1)) == 1:
            with contextlib.suppress(OSError):  # whoever read them may be gone
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(75)
        raise
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] in ("guidebook", "safetensors") or isinstance(error, OSError)
        if not ours:
            raise
        print(f"guidebook: {error}", file=sys.stderr)
        sys.exit(1)


def _load(words: list[str], profile: str, settings: list[str] | None) -> list:
    """Params of each EXPERIMENT, EXPERIMENT/PROFILE or PARAMS.yml, checked before anything starts. Raises ParamsError."""
    from guidebook.config import params, yamlfile

    changes = yamlfile.overrides(settings)
    return [
        params.load_file(Path(word), changes)
        if word.endswith(".yml")
        else params.load(*params.named(word, profile), changes)
        for word in words
    ]


@app.command()
def run(
    experiments: Annotated[list[str] | None, typer.Argument(metavar="EXPERIMENT…", help=WHICH)] = None,
    profile: Profile = "demo",
    set_: Set = None,
    all_: Annotated[bool, typer.Option("--all", help="every experiment that has this profile")] = False,
) -> None:
    """Execute an experiment's notebook: trains, samples and measures what is not done yet."""
    from guidebook.config.params import ParamsError, having
    from guidebook.config.paths import NOTEBOOKS

    if all_ and experiments:
        raise ParamsError(f"--all runs every experiment: leave it out, or {' '.join(experiments)[:60]!r}")
    if not (words := having(profile) if all_ else experiments):
        raise ParamsError("name an experiment, or --all")
    chosen = _load(words, profile, set_)
    if strange := [p.experiment for p in chosen if not (NOTEBOOKS / f"{p.experiment}.ipynb").is_file()]:
        raise ParamsError(f"experiment {strange[0]!r} has no notebook; `guidebook train` trains without one")
    from guidebook.book.notebook import run_experiment
    from guidebook.book.progress import watching
    from guidebook.runs.recording import begun

    for params in chosen:
        with begun(params) as opened, watching(opened):
            done, new = run_experiment(params)
        print(f"{done.name}: {'done' if new else 'nothing to do'}, {done.path}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="of the experiment: a-z, 0-9 and -")],
    data: Annotated[Path, typer.Option(help="images with metadata.csv or a folder a class, or parquet files")],
) -> None:
    """Write params and a notebook for images of one's own."""
    from guidebook.book.new import found, written

    lines, files = found(data), written(name, data)
    print(*lines, f"wrote {', '.join(map(str, files))}", f"next: guidebook run {name}, then guidebook build", sep="\n")


@app.command()
def show(experiment: Experiment, profile: Profile = "demo", set_: Set = None, as_json: Json = False) -> None:
    """Print the resolved parameters and what a run would cost; a multiply-add (MAC, which papers count) is two FLOP."""
    (params,) = _load([experiment], profile, set_)
    from guidebook.training.estimate import facts

    found = facts(params)
    lines = (f"{k.replace('_', ' ')}: {v if isinstance(v, str) else f'{v:,}'}" for k, v in found.items())
    both = {"params": params.model_dump(mode="json"), **found}
    print(json.dumps(both, indent=1) if as_json else params.yaml() + "\n".join(lines))


@app.command()
def train(experiment: Experiment, profile: Profile = "demo", set_: Set = None) -> None:
    """Train alone, without the notebook."""
    (params,) = _load([experiment], profile, set_)
    from guidebook.runs.recording import begun
    from guidebook.training.loop import train as go

    with begun(params) as opened:
        go(opened)
    if int(os.environ.get("RANK", 0)) == 0:
        print(opened.path)


@app.command()
def record(runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="folders in runs/<experiment>")]) -> None:
    """Copy finished runs, without weights, to book/results/; their trainings with other seeds become variants."""
    from guidebook.runs.recording import record as copied
    from guidebook.runs.run import opened

    for one in map(opened, runs):
        print(copied(one))


@app.command()
def remove(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN…", help="folders in runs/<experiment>")] = None,
) -> None:
    """Delete runs with all that they hold; without a RUN, list those that are not complete. Records stay, and what runs share."""
    from guidebook.book.status import everything
    from guidebook.runs.recording import removed

    for folder in runs or ():
        print(f"deleted {removed(folder)}")
    for row in [] if runs else everything():
        if row["state"] in ("failed", "stopped", "trained", "corrupt") and "seed" in row:  # without one, a job's alone
            print(f"{row['state']}  {row['folder']}")


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="EXPERIMENT/PROFILE, or a folder in runs/<experiment>")],
    folder: Annotated[Path, typer.Argument(help="a new one")],
) -> None:
    """Write a trained run as a diffusers pipeline, which loads where this library is not installed."""
    from guidebook.export.trained import find

    found = find(run)
    from guidebook.export import pipeline

    print(pipeline.export(found, folder))


@app.command()
def submit(
    experiments: Experiments,
    profile: Profile = "paper",
    set_: Set = None,
    seeds: Annotated[str | None, typer.Option(metavar="0,1,2", help="a task per experiment and seed")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the scripts, submit nothing")] = False,
) -> None:
    """Submit experiments to SLURM as params/cluster.yml says, and the book after them: what is unfinished only."""
    from guidebook.config import yamlfile
    from guidebook.slurm import site, submit

    here = site.load()
    work = submit.tasks(experiments, profile, yamlfile.overrides(set_), yamlfile.seeds(seeds), here)
    work, others = submit.unfinished(work)
    print("".join(f"{line}\n" for line in others), end="", file=sys.stderr if dry_run else sys.stdout)
    if not work:
        print("nothing to submit")
    elif dry_run:
        print("\n".join(text for text, _ in submit.scripts(here, work)), end="")
        try:
            submit.check(here, work)
        except submit.SubmitError as why:
            raise submit.SubmitError(f"it would be refused: {why}") from None
    else:
        for job in submit.submit(here, work):
            print(f"{job['job']}  {job['name']}")
        print(f"follow them: guidebook status --watch; their output: {Path(job['log']).parent}")


@app.command()
def status(
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="again every five seconds, until Ctrl-C")] = False,
) -> None:
    """List every run and submitted job: state, images seen, speed, time left, newest metrics."""
    from guidebook.book.status import everything

    if as_json:
        print(json.dumps(everything(), indent=1))
    else:
        from guidebook.book.progress import print_status

        print_status(watch)


@app.command()
def fetch(
    experiments: Experiments,
    profile: Profile = "paper",
    set_: Set = None,
    decode: Annotated[bool, typer.Option("--decode", help="decode or encode every image once, for all runs")] = False,
) -> None:
    """Download data and weights into the cache, for machines without internet."""
    chosen = _load(experiments, profile, set_)
    from guidebook.slurm.fetch import fetched

    for line in fetched(chosen, decode):
        print(line)


@app.command()
def build() -> None:
    """Build the HTML book from the runs and the recorded results."""
    from guidebook.book.build import build as make

    print(make(lambda line: print(f"book: {line}", file=sys.stderr, flush=True)))
