"""Chapters of tables from runs and records: each fills the places `<!-- part -->` of its page in `book/`."""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guidebook.book import atlas as sizes
from guidebook.book import front, records, trace
from guidebook.book.chapter import Chapter
from guidebook.book.status import everything, overview
from guidebook.config.errors import ParamsError, plain
from guidebook.config.paths import BOOK, RESULTS
from guidebook.report.banner import stands_in
from guidebook.report.claims import OUTCOMES, Answer, every, forest, from_atlas, marked, together
from guidebook.report.source import LIBRARY, lines
from guidebook.report.tables import Html, escaped, table
from guidebook.runs.run import Run

FAULTS = RESULTS / "faults.json"  # written by `make test-faults` when every test passed
COVERAGE = RESULTS / "coverage.json"  # written by `python -m bench.coverage`
GUIDANCE = LIBRARY / "diffusion" / "guidance.py"


def results(runs: list[Run], places: dict[str, str] | None = None) -> str:
    """`results.md`: every record of every run; `places` are the pages of runs, by their names."""
    return _page("results", records.parts(runs, lambda run: _named(run, places or {})))


def status(runs: list[Run], places: dict[str, str] | None = None) -> str:
    """`status.md`: state, data and code of every run; `places` are the pages of runs, by their names."""
    rows = {run.name: _state(run, _named(run, places or {})) for run in runs if run.params.profile != "smoke"}
    heads = ["run, its data and its code", "state", "images seen", "training", "device"]
    failed = [[row["run"], row.get("seed"), row["reason"]] for row in everything() if row["state"] == "failed"]
    failures = "## What failed\n\n" + table(["run", "seed", "last line of its log"], failed).text if failed else ""
    return _page("status", {"runs": records.with_variants(heads, rows), "failures": failures})


def _named(run: Run, places: dict[str, str]) -> Html:
    """A run's name, as a link to its page where it has one."""
    place = places.get(run.name.partition(" · ")[0])
    return Html(f'<a href="{place}.html#run">{escaped(run.name)}</a>' if place else escaped(run.name))


def _state(run: Run, name: Html) -> list:
    """Its row of Status: what it rests on in small print below its name."""
    (row,), facts, versions = overview([run]), run.provenance(), run.provenance().get("versions", {})
    code = [f"{of} {versions.get(of)}" for of in ("guidebook", "torch", "diffusers", "python")]
    commit = f"commit {row['commit'] or 'unknown'}{' with changes' if facts.get('dirty') else ''}"
    data = f"{row['data']}, fingerprint {facts.get('data', {}).get('fingerprint')}; text {row['text']}"
    rests = escaped("; ".join([data, commit, *code]))
    name = Html(f'<span id="{trace.slug(run)}">{name.text}</span><div class="rests">{rests}</div>')
    done = f"{row['images seen']:,}" + (f" of {row['of']:,}" if row["images seen"] != row["of"] else "")
    length = f"{facts.get('train_seconds', 0) / 60:.1f} min, {row['images/s'] or 0:,} images/s"
    return [name, row["state"], done, length, row["device"]]


def claims(chapters: list[tuple[str, str, str, list[Answer]]]) -> str:
    """`claims.md`, from every experiment's page: its file, its title, the data of its run and its answers."""
    parts, known, counts, given = [], every().values(), [], []
    for source in dict.fromkeys(c.source for c in known):
        rows, outcomes = [], []
        for claim in (c for c in known if c.source == source):
            settled = claim.answer and Answer(claim.id, claim.answer.found, claim.answer.verdict)
            own = (settled, "the documents"), (from_atlas(claim), Html('<a href="atlas.html">the atlas</a>'))
            found = [(a, by) for a, by in own if a]
            by_runs = [
                (a, Html(f'<a href="{file}.html#{a.claim}">{escaped(title if data in a.note else f"{title}: {data}")}</a>'))
                for file, title, data, answers in chapters for a in answers if a.claim == claim.id
            ]  # fmt: skip
            given += [a for a, _ in by_runs]
            found = [*found, *by_runs] or [(Answer(claim.id, "", "open", claim.open or "no run yet"), "")]
            outcomes.append(together([a for a, _ in found]))
            for i, (answer, by) in enumerate(found):
                anchor, says = (claim.id, f"{claim.says} ({claim.where})") if i == 0 else ("", "")
                rows.append([marked(answer.verdict, anchor, outcomes[-1]), says, _found(answer, by)])
        name, title = _document(source)
        counts.append([name, *(outcomes.count(o) for o in OUTCOMES), len(outcomes)])
        rows = table(["verdict", "claim", "found, what it rests on, and where"], rows).text
        parts += [f"## {_text(name)}\n", f"*{_text(title)}* {{cite}}`{source}`\n", rows + "\n"]
    counts.append(["together", *(sum(row[i] for row in counts) for i in range(1, len(OUTCOMES) + 2))])
    summary = table(["document", *OUTCOMES, "claims"], counts).text
    return _page("claims", {"documents": "\n".join(parts), "summary": summary, "forest": forest(given)})


def _found(answer: Answer, by: Html | str) -> Html:
    """A cell with the finding; below it, smaller, what it rests on and where."""
    rests = "; ".join(part for part in (escaped(answer.note), by.text if isinstance(by, Html) else by) if part)
    data = " stand-in" if stands_in(rests) else ""
    return Html(f'{escaped(answer.found)}<div class="rests{data}">{rests}</div>')


def atlas() -> str:
    """`atlas.md`: sizes and costs that documents state, beside those that are counted."""
    return _page("atlas", sizes.parts(functools.cache(lambda source: _document(source)[0])))


def _document(source: str) -> tuple[str, str]:
    """`Shah et al., 2024` and the title of a document of the bibliography.

    A heading's citation would stand in the page's contents as its key, so a heading has the words themselves.
    """
    from pybtex.richtext import Text

    entry = _bibliography().entries[source]
    first, *others = (" ".join(map(str, p.rich_last_names)) for p in entry.persons["author"])
    more = f" and {others[0]}" if len(others) == 1 else " et al." if others else ""
    return f"{first}{more}, {entry.fields.get('year', 'undated')}", str(Text.from_latex(entry.fields["title"]))


@functools.cache
def _bibliography():
    from pybtex.database import parse_file

    return parse_file(BOOK / "references.bib")


def intro(given: front.Given, shown: list[Chapter], runs: list[Run], images: Path) -> str:
    """`intro.md`: what was found, from every page's answers; pictures are saved in the folder `images`."""
    name = functools.cache(lambda source: _document(source)[0])
    parts = {"strips": front.strips(shown, images), "tally": front.tally(given, name)}
    return _page("intro", parts | {"findings": front.findings(given), "scale": front.scale(shown, runs)})


def experiments(shown: list[tuple[str, list[tuple[str, str, str]]]]) -> str:
    """`experiments.md`: of every experiment its notebook's heading and, of each of its pages, (file, kind of run, its run's data)."""
    rows = []
    for heading, chapters in shown:
        name, _, question = heading.partition(": ")
        links = [f'<a href="{file}.html">{escaped(kind)}</a>: {escaped(data)}' for file, kind, data in chapters]
        rows.append([Html(f"<strong>{escaped(name)}</strong>"), question, Html("; ".join(links) or "not run yet")])
    return _page("experiments", {"experiments": table(["experiment", "question", "runs"], rows).text})


def code(chapters: list[Chapter]) -> str:
    """`code.md`: the library's code behind the numbers, as the pages of experiments call it."""
    return _page("code", {"functions": trace.functions(chapters)})


def guidance() -> str:
    """`guidance.md`: ways to guide as the library's source has them, each where its equation stands."""
    text = GUIDANCE.read_text()
    name, filled = GUIDANCE.relative_to(LIBRARY.parent), {}
    for function in re.findall(r"<!-- (\w+) -->", (BOOK / "guidance.md").read_text()):
        first, last = lines(text, function)
        code = "\n".join(text.splitlines()[first - 1 : last])
        filled[function] = f"```{{code-block}} python\n:caption: lib/{name}, line {first}\n\n{code}\n```"
    return _page("guidance", filled)


def reliability() -> str:
    """`reliability.md`: every promise with the faults that were tried."""
    none = {"summary": "No test of faults has been recorded yet: `make test-faults` writes one."}
    return _page("reliability", _recorded(FAULTS, _faults, none))


def _faults(made: dict, faults: list[dict]) -> dict[str, str]:
    tried, held = (sum(f[k] for f in faults) for k in ("tried", "held"))
    summary = (
        f"In all the promises were put to the test {tried:,} times and held {held:,} times: on {_text(made['date'])}, at commit "
        f"{_text((made['commit'] or 'unknown')[:8])}, with torch {_text(made['torch'])} on {_text(made['cores'])} CPU cores. "
        "`make test-faults` tries them again and writes this record; each commit's tests try a part of them."
    )
    promises: dict[str, list] = {}
    for promise, fault in dict.fromkeys((f["promise"], f["fault"]) for f in faults):
        rounds = [f for f in faults if (f["promise"], f["fault"]) == (promise, fault)]
        tried, held = (f"{sum(f[k] for f in rounds):,}" for k in ("tried", "held"))
        row = [fault, tried, held, "; ".join(dict.fromkeys(f["detail"] for f in rounds))]
        promises.setdefault(str(promise), []).append(row)
    heads = ["fault", "tried", "held", "what was seen"]
    return {p: table(heads, rows).text for p, rows in promises.items()} | {"summary": summary}


def how_to_read() -> str:
    """`how-to-read.md`: how often each interval held what it should, in simulation."""
    none = {"coverage": "Nothing was simulated yet: `python -m bench.coverage` does."}
    return _page("how-to-read", _recorded(COVERAGE, _coverage, none))


def _coverage(made: dict, rows: list[dict]) -> dict[str, str]:
    lines = [[f"{r['what']}; {r['of']}".rstrip("; "), f"{r['coverage']:.1%}", f"{r['width']:.2f}"] for r in rows]
    heads = ["interval of", "holds what it should", "its width over that of the scatter"]
    return {k: _text(v) for k, v in made.items()} | {"coverage": table(heads, lines).text}


def _recorded(file: Path, parts: Callable[..., dict[str, str]], none: dict[str, str]) -> dict[str, str]:
    """The parts of a page made of a record of no run, or those of a page without one. Raises ParamsError."""
    try:
        return parts(**json.loads(file.read_bytes())) if file.exists() else none
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        why = f"{type(error).__name__}: {plain(error)[:200]}"
        raise ParamsError(f"{file} is not what was written ({why}); put it back, or delete it") from None


def _page(name: str, parts: dict[str, str]) -> str:
    """A page of the book with its places filled, each by HTML on a line of its own, or by words of `_text`."""
    text = (BOOK / f"{name}.md").read_text()
    for part, value in parts.items():
        text = text.replace(f"<!-- {part} -->", value)
    return text


def _text(words: Any) -> str:
    """Words as a text node of Markdown: no character of them means anything to it, but where a line begins with them."""
    return re.sub(r"[!-$&(-+<-@[-`{-~]", lambda c: f"&#{ord(c[0])};", plain(words))
