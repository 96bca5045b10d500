"""Findings of a run in a few sentences, from its own answers and records: the first thing on its page."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from guidebook.config.budget import images
from guidebook.config.datasets import percent
from guidebook.config.params import load
from guidebook.metrics.compare import FAILS, HOLDS
from guidebook.report.banner import fraction
from guidebook.report.claims import Answer, every, marked
from guidebook.report.tables import SHOWN, escaped, pick, with_interval
from guidebook.runs.run import Run
from guidebook.sampling.spec import usual

MOST, ELSE = 5, 3  # findings at the top of a page; where nothing was decided, what was measured
BEST = {"adherence": "highest", "clip_score": "highest", "fid": "lowest", "fd_judge": "lowest", "fd_random": "lowest"}
# The published training on photographs, and the share of it from which on samples may be recognised: after 12 % of it the judge read those
# of the record at w = 5 as often as photographs, after 6 % (samplers/paper) three in ten at w = 2
PHOTOGRAPHS, ENOUGH = ("cifar10", "paper"), 0.1
SPREAD = ("diversity", "diversity_pixels", "grain", "saturation")
METRIC = re.compile(rf"\b({'|'.join(sorted((*SHOWN, 'roughness', 'excess'), key=len, reverse=True))})\b")


def ranked(answers: Iterable[Answer]) -> list[Answer]:
    """Answers with those first that decide, of these with those first that decide at the smallest level."""
    return sorted(answers, key=lambda a: (a.verdict not in (HOLDS, FAILS), a.p or 0))


def finding(answer: Answer, links: Sequence[tuple[str, str]], basis: str = "") -> str:
    """In HTML: an answer's verdict, its claim and what was found; below, what that rests on, without `basis`, and (address, words) of links."""
    note = answer.note.replace(basis, "").rstrip("; ") if answer.verdict in (HOLDS, FAILS) else ""
    rests = [escaped(note)] * bool(note) + [f'<a href="{to}">{escaped(words)}</a>' for to, words in links]
    words = f"<strong>{escaped(every()[answer.claim].says)}</strong>: {escaped(answer.found)}"
    return f'<li>{marked(answer.verdict).text} {words}<div class="rests">{" · ".join(rests)}</div></li>'


def findings(run: Run, answers: list[Answer], figures: dict[str, str]) -> str:
    """In HTML, at most five of them. `figures` names, by metric, the anchor of the figure on the page that shows it.

    Verdicts that were decided come first. A run that decided none says why in one sentence, and what was measured; a run that answers
    no claim has findings from its records.
    """
    decided, lines, says, left = [a for a in answers if a.verdict in (HOLDS, FAILS)], [], "", ""
    clearest = ranked(decided)[:MOST]  # shown in the order of the page
    for a in [a for a in decided if a in clearest] or [a for a in answers if "[" in a.found][:ELSE]:
        shows = METRIC.search(a.found)
        figure = [(f"#{figures[shows[0]]}", "figure")] if shows and shows[0] in figures else []
        links = [*figure, (f"#{a.claim}", "how it was decided"), (f"../claims.html#{a.claim}", "the claim")]
        lines.append(finding(a, links, fraction(run)))
    if not answers:
        lines = [f"<li>{escaped(words)}</li>" for words in measured(run)]
        nothing = "" if lines else "Nothing was measured that a sentence could say: see the tables below."
        says = " ".join(filter(None, (escaped(recognisable(run)), nothing)))
    elif not decided:
        also = " What it measured all the same:" if lines else ""
        none = f"decides none of the {len(answers)} claims" if len(answers) > 1 else "does not decide the claim"
        says = f"This run {none} that it tests: {escaped(_reasons(answers))}.{also}"
    else:
        says = f"The clearest {MOST} of {len(decided)} verdicts; the others stand below." if len(decided) > MOST else ""
        doubts = len(answers) - len(decided)
        left = f"<p>Undecided: {doubts} more claim{'s' * (doubts > 1)}, at the end of the page.</p>" if doubts else ""
    measures = '<p class="rests">What is measured: <a href="../how-to-read.html#measures">How to read</a></p>'
    says = f"<p>{says}</p>" if says else ""
    return f'<div class="findings">{says}<ul>{"".join(lines)}</ul>{left}{measures}</div>'


def recognisable(run: Run) -> str:
    """Sentence on whether samples can be recognised: by what a judge reads of them at its best scale, where it reads real images well.

    Of images of one's own that no judge reads by the length of the training. Empty where nothing tells.
    """
    p, of, real = run.params, usual(run, "adherence"), pick(run.metrics(), "adherence", guidance=None)
    chance = 0.5 if p.data.entry.attributes else 1 / len(p.data.entry.classes)
    if of and real and real["low"] > (1 + chance) / 2:
        best = max(of, key=lambda r: r["value"])
        yet = "" if best["value"] >= (real["value"] + chance) / 2 else "not "
        words = f"at w = {best['guidance']:g}, its best, the judge reads {with_interval(best)} of them as asked, n = {best['n']:,}"
        beside = f"guessing gives {percent(chance, 1)}, real images {with_interval(real)}"
        return f"The samples are {yet}recognisable{yet and ' yet'}: {words}; {beside}."
    if not p.data.contents:
        return ""
    seen, whole = run.provenance().get("images_seen", images(p)), images(load(*PHOTOGRAPHS))
    says = "may be recognisable" if seen >= ENOUGH * whole else "are not recognisable yet"
    part = f"{percent(seen, whole)} of the published training on photographs ({'/'.join(PHOTOGRAPHS)})"
    return f"By the length of the training the samples {says}: {seen:,} images seen, {part}; no judge can tell."


def _reasons(answers: list[Answer]) -> str:
    """Why these answers decide nothing: the two commonest reasons, of several each with the number of its claims."""
    level = "no interval of a difference leaves out zero"
    reasons = Counter(level if a.note.startswith("difference") else a.note.partition("; ")[0] for a in answers)
    first = [f"{why}{f' ({n} of them)' * (len(reasons) > 1)}" for why, n in reasons.most_common(2)]
    return "; ".join(first) + "; why the others do not stands below" * (len(reasons) > 2)


def measured(run: Run) -> list[str]:
    """Three sentences on a run's own records: where it is best, or how it moves, over the scales of its usual samples."""
    found: dict[str, str] = {}
    for name in (*BEST, *SPREAD):
        of, real = usual(run, name), pick(run.metrics(), name, guidance=None)
        kind = BEST.get(name, name)
        if of and kind not in found:
            at = [f"{with_interval(r)} at w = {r['guidance']:g}" for r in of]
            best = (max if kind == "highest" else min)(range(len(of)), key=lambda i: of[i]["value"])
            moves = (
                "falls" if of[0]["low"] > of[-1]["high"] else "rises" if of[-1]["low"] > of[0]["high"] else "may stay"
            )
            words = f"is {kind} with {at[best]}" if name in BEST else f"{moves} from {at[0]} to {at[-1]}"
            beside = f"; of real images {with_interval(real)}" if real else ""
            found[kind] = f"{name} {words}, n = {of[0]['n']:,}{beside}"
    return [*found.values()][:ELSE]
