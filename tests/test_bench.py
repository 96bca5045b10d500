"""What the library costs, and what it saves: the comparisons are fair, and their reports hold what they say."""

import statistics
from dataclasses import replace

import pytest
import torch

from bench import batch, cache, latents, measuring, own, quality, reduced, sample, train
from bench.__main__ import FIXED, main
from bench.example import Captioned, Example
from guidebook.config.params import load as load_params
from guidebook.data.images import from_uint8, load
from guidebook.diffusion.objective import Objective
from guidebook.models import build
from guidebook.models.autoencoder import autoencoder
from guidebook.models.space import Latents
from guidebook.report import loading
from guidebook.report import performance as page
from guidebook.report.performance import read
from guidebook.report.tables import Html
from guidebook.runs.run import Run
from guidebook.runtime.precision import native_bf16
from guidebook.sampling.sets import ImageSet
from guidebook.training.profiler import PARTS
from guidebook.training.step import prepared


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of reports of the test's own, in which the page reads too."""
    monkeypatch.setattr(measuring, "FOLDER", tmp_path / "results" / "bench")
    monkeypatch.setattr(page, "FOLDER", tmp_path / "results" / "bench")


@pytest.fixture
def small(tiny, monkeypatch):
    """Params of the least work."""
    monkeypatch.setattr(sample, "STEPS", 3)
    return tiny.replace(data={"range": [-1.0, 1.0]})


@pytest.fixture
def here(monkeypatch):
    """Work in this process: one of its own is for the memory, which is not looked at then."""
    for module in (batch, latents):
        monkeypatch.setattr(module, "apart", lambda work, *args, watched=True: work(*args) | {"memory_mb": 5.0})


# The command

REFUSED = {
    "an unknown bench": (["trian"], "bench 'trian' is not known (nearest: train); there are: loop"),
    "an experiment for a bench of its own": (["loop", "--experiment", "mnist"], "--experiment is for train, sample"),
    "a profile for a bench of its own": (["checkpoint", "--profile", "demo"], "bench checkpoint measures mnist/demo"),
    "an unknown experiment to bench": (["train", "--experiment", "mnsit"], "(nearest: mnist)"),
    "an unknown profile to bench": (["train", "--profile", "dmeo"], "'dmeo' is not known (nearest: demo)"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_wrong_words_are_refused_in_one_line(words, said):
    with pytest.raises(SystemExit, match=r"^bench: ") as refused:
        main(words)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "gpu", "measured"),
    [
        (["train"], False, "cifar10/demo"),
        (["train"], True, "cifar10/best"),
        (["sample", "--experiment", "samplers"], False, "samplers/demo"),
        (["sample", "--experiment", "samplers"], True, "samplers/best"),
        (["quality", "--experiment", "mnist"], True, "mnist/demo"),
        (["quality", "--profile", "smoke"], True, "cifar10/smoke"),
        (["train", "--experiment", "mnist", "--profile", "paper"], False, "mnist/paper"),
        (["batch"], False, "wikiart/demo"),
        *(([name], True, setting) for name, setting in FIXED.items()),
    ],
)
def test_a_bench_measures_the_experiment_and_profile_that_were_asked_for(words, gpu, measured, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    done = []
    where = "own" if words[0] in ("loop", "checkpoint") else words[0]
    monkeypatch.setattr(f"bench.{where}.{words[0]}", done.append)
    main(words)
    assert [f"{p.experiment}/{p.profile}" for p in done] == [measured]


# The library's own cost


@pytest.mark.slow
def test_the_training_loop_costs_at_most_three_percent_over_a_bare_one():
    assert own.loop(load_params("mnist", "demo")) <= 1.03


@pytest.mark.slow
def test_checkpoints_cost_at_most_two_percent_of_training_at_the_demos_interval():
    assert own.checkpoint(load_params("mnist", "demo")) <= 0.02


def test_the_librarys_own_cost_is_measured(small):
    assert own.loop(small, repeats=1, steps=1) > 0
    assert own.checkpoint(small, repeats=1) < 100


# Ratios


def test_blocks_take_turns_and_every_other_turn_goes_backwards():
    seen = []
    blocks = {name: lambda name=name: seen.append(name) or float(len(seen)) for name in "ab"}
    assert measuring.alternate(blocks, 3) == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}
    assert seen == list("abbaab")


def test_a_ratio_is_the_quotient_of_two_medians_and_lies_between_those_of_the_turns():
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        above, below = (1 + torch.rand(2, 5, generator=rng)).tolist()
        r = measuring.ratio("speed", above, below, "a / b")
        assert r["value"] == statistics.median(above) / statistics.median(below)
        assert r["low"] <= r["value"] <= r["high"]
        assert r["repeats"] == 5


def test_the_peak_of_a_cpu_is_more_than_nothing_and_less_than_a_data_centre():
    peak, known = measuring.peak_flops(seconds=0.02)
    assert 1e8 < peak < 1e15
    assert known == "measured, matrix product"


# Training

OBJECTIVES = {
    "noise": {"prediction": "epsilon", "min_snr_gamma": None},
    "noise, weighted": {"prediction": "epsilon", "min_snr_gamma": 5.0},
    "v, weighted": {"prediction": "v_prediction", "min_snr_gamma": 5.0},
    "image, weighted": {"prediction": "sample", "min_snr_gamma": 5.0},
}


@pytest.mark.parametrize("every_step", [True, False], ids=["encodes", "encoded"])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_both_loops_compute_the_same_loss_gradient_and_step(small, monkeypatch, objective, every_step):
    params = small.replace(objective=objective, train={"clip_norm": 1.0, "caption_dropout": 0.3})
    data, told, plain = load(params.data), {}, Objective.loss

    def spy(self, net, x0, eps, t, cond):
        told.update(x0=x0, eps=eps, t=t, tokens=cond.tokens)
        return plain(self, net, x0, eps, t, cond)

    monkeypatch.setattr(Objective, "loss", spy)
    library, example = prepared(params, data), Example(params, data, "fp32", every_step)
    with train.watched(library.optimizer) as ours:
        library.step()
    # which caption each embedding was; equal embeddings would be equal captions
    table = example.hidden(torch.arange(len(example.ids)))
    caption = torch.cdist(told["tokens"].flatten(1), table.flatten(1)).argmin(1)
    torch.testing.assert_close(table[caption], told["tokens"], rtol=1e-4, atol=1e-5)
    with train.watched(example.optimizer) as theirs:
        loss = example.learn(told["x0"], told["eps"], told["t"], caption)
    assert loss == pytest.approx(library.flush()["loss"], rel=1e-4)
    assert (ours[0] - theirs[0]).norm() < 1e-3 * ours[0].norm()
    pairs = list(zip(library.weights, example.unet.parameters(), strict=True))
    for mine, yours in pairs:
        torch.testing.assert_close(mine, yours, rtol=0, atol=2.1 * params.train.lr)
    assert statistics.fmean((a - b).abs().mean().item() for a, b in pairs) < 0.02 * params.train.lr


def test_both_loops_see_the_same_pixels(small):
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        params = small.replace(data={"range": [low, high]})
        split = load(params.data).train
        seen = Captioned(split, params.data)
        for i in (0, 17, 63):
            torch.testing.assert_close(seen[i]["pixels"], from_uint8(split.images[i], low, high))
            assert seen[i]["caption"] == split.labels[i]


def test_the_example_goes_through_its_data_epoch_by_epoch(small):
    params = small.replace(train={"batch": 24})
    example = Example(params, load(params.data), "fp32", every_step=False)
    assert [example.step() for _ in range(4)] == [24, 24, 16, 24]


def test_the_training_report_holds_every_way_once_and_every_ratio_is_that_of_its_rows(small, monkeypatch):
    monkeypatch.setattr(measuring, "peak_flops", lambda: (1e12, "test"))
    changes = {"precision": "bf16", "channels_last": True}
    found = train.train(
        small.replace(model={"channels": [32, 64, 64]}, train=changes), repeats=2, steps=1, compiled=False
    )
    assert read("train") == [found]
    assert found["made"] | {"experiment": "mnist", "profile": "smoke", "batch": 16} == found["made"]
    rows = {r["name"]: r for r in found["rows"]}
    assert len(rows) == len(found["rows"]) == 8
    for r in rows.values():
        assert r["speed"]["low"] <= r["speed"]["median"] <= r["speed"]["high"]
        assert len(r["speeds"]) == 2
        assert r["share_of_peak"] == pytest.approx(3e9 * found["made"]["gflops_forward"] * r["speed"]["median"] / 1e12)
        assert (r["gradient_error"] is None) == r["name"].startswith("example")
    assert rows["library, fp32"]["gradient_error"] == 0
    assert 0 < rows["library, fp32, channels last"]["gradient_error"] < 1e-3
    assert 1e-4 < rows["library, bf16"]["gradient_error"] < 0.2
    ratios_are_of_rows(found, rows)
    mine = train.Way("bf16", True, True)
    assert ("training, compiled", replace(mine, compile=True), train.EXAMPLE) in [
        pair[:3] for pair in train._pairs(mine)
    ]
    assert found["ratios"][0]["what"].startswith("library, bf16, channels last / example, fp32: ")
    assert found["ratios"][1]["what"].startswith("library, bf16, channels last / example, bf16: ")
    assert found["ratios"][2]["what"].startswith("library, bf16, channels last / example, bf16, encoded once: ")


@pytest.fixture
def drawn_objects(shared, tmp_path, monkeypatch):
    """Params of a Stable Diffusion in small, whose autoencoder all tests share; of its architecture the widths are the least there are."""
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(shared(tmp_path / "runs")))
    for name, least in {"CHANNELS": (32,) * 4, "TEXT": 32, "VAE": (32,) * 4}.items():
        monkeypatch.setattr(reduced, name, least)
    monkeypatch.setattr(sample, "STEPS", 3)
    monkeypatch.setattr(sample, "FURTHER", [s.model_copy(update={"steps": 4}) for s in sample.FURTHER])
    yield lambda profile: load_params("stable-diffusion", profile).replace(train={"precision": "fp32"})
    autoencoder.cache_clear()


def test_in_latents_both_loops_see_the_same_and_learn_the_same(drawn_objects, monkeypatch):
    params = reduced.at_hand(drawn_objects("smoke"))
    data, seen, plain = load(params.data), {}, Objective.loss
    encoding, kept = (Example(params, data, "fp32", every_step) for every_step in (True, False))
    images, moments = (torch.stack([e.loader.dataset[i]["pixels"] for i in range(9)]) for e in (encoding, kept))
    with torch.random.fork_rng():
        both = [torch.manual_seed(1) and e.latents(x) for e, x in ((encoding, images), (kept, moments))]
    torch.testing.assert_close(*both, rtol=5e-3, atol=5e-3)  # they are kept in half precision
    assert both[0].shape == (9, 4, 4, 4)
    assert both[0].std() > 0.3

    def spy(self, net, x0, eps, t, cond):
        seen.update(x0=x0, eps=eps, t=t, tokens=cond.tokens)
        return plain(self, net, x0, eps, t, cond)

    monkeypatch.setattr(Objective, "loss", spy)
    library = prepared(params, data)
    with train.watched(library.optimizer) as ours:
        library.step()
    caption = torch.cdist(seen["tokens"].flatten(1), kept.table.flatten(1)).argmin(1)
    with train.watched(kept.optimizer) as theirs:
        kept.learn(seen["x0"], seen["eps"], seen["t"], caption)
    assert (ours[0] - theirs[0]).norm() < 1e-3 * ours[0].norm()


@pytest.mark.parametrize("profile", ["smoke", "paper"])
def test_a_stable_diffusion_is_benched_in_latents_with_weights_that_are_at_hand(drawn_objects, profile, monkeypatch):
    monkeypatch.setattr(measuring, "peak_flops", lambda: (1e12, "test"))
    params = drawn_objects(profile)
    trained, drawn = train.train(params, repeats=1, steps=1, compiled=False), sample.sample(params, repeats=1, batch=2)
    for found in (trained, drawn):
        ratios_are_of_rows(found, {r["name"]: r for r in found["rows"]})
        assert found["made"]["data"] == "scenes"
    rows = {r["name"]: r for r in drawn["rows"]}
    equal = [f"{of}, fp32{word}" for of in ("pipeline", "library") for word in ("", ", ddim", ", dpmpp-2m")]
    assert {*equal} < rows.keys()
    assert max(rows[name]["max_difference"] for name in equal) <= 1
    assert [rows[name]["steps"] for name in equal] == [3, 4, 4, 3, 4, 4]


def ratios_are_of_rows(found, rows):
    assert found["ratios"]
    for r in found["ratios"]:
        above, below = (rows[name]["speed"]["median"] for name in r["what"].partition(": ")[0].split(" / "))
        assert r["value"] == pytest.approx(above / below)


# Sampling


def test_the_pipeline_and_the_library_draw_the_same_images(small):
    found = sample.sample(small, repeats=2, batch=4)
    assert read("sample") == [found]
    rows = {r["name"]: r for r in found["rows"]}
    assert rows["pipeline, fp32"]["max_difference"] == 0
    assert rows["library, fp32"]["max_difference"] <= 1
    ratios_are_of_rows(found, rows)


# By its other solvers diffusers clips x0 otherwise or not at all.
@pytest.mark.parametrize("w", [1.0, 5.0])
def test_they_do_without_guidance_and_at_another_scale(small, w):
    solver, index = sample.usual(small), torch.arange(3)
    with sample.prepared(small, build(small)) as run:
        pipe = sample.piped(run, "raw", w, solver, torch.float32)(index)
        mine = sample.ours(run, "raw", w, solver)(index)
    assert sample.difference(pipe, mine) <= 1
    assert mine.float().std() > 1


def test_unequal_outputs_stop_the_bench(small, monkeypatch):
    monkeypatch.setattr(sample, "difference", lambda a, b: 2)
    with pytest.raises(sample.NotTheSame, match="differs by 2 of 255"):
        sample.sample(small, repeats=1, batch=2)
    assert read("sample") == []


# Quality


@pytest.fixture
def drawn(small, monkeypatch):
    """`quality` with distances by the number of steps and the scale, in place of images and a judge."""
    interval = {"name": "interval", "w": [3], "between": [0.2, 5.0]}
    solvers = [{"sampler": "dpmpp-2m", "steps": n, "eta": 0.0, "spacing": "leading"} for n in (1, 2)]
    params = small.replace(sample={"methods": [interval], "solvers": solvers, "guidance": [1, 2, 5]})

    def run(distance) -> dict:
        def judged(run, candidate, n):
            solver, guidance = candidate
            value = distance(solver.steps, guidance.w)
            facts = {"evaluations": solver.steps}
            images = ImageSet("set", run.path, torch.zeros(0), facts)
            return images, {"value": value, "low": value - 1, "high": value + 1, "n": n}

        monkeypatch.setattr(quality, "judged", judged)
        with sample.prepared(params, build(params)) as made:
            run = Run(params.replace(sample={"weights": "raw"}), made.path, recorded=False)
            return quality.quality(params, repeats=1, batch=2, run=run)

    return run


def test_the_ratio_at_equal_quality_is_of_the_fastest_that_is_as_good(drawn):
    found = drawn(lambda steps, w: 100 + w + {1: 50, 2: 1}.get(steps, 0))
    rows = {r["name"]: r for r in found["rows"]}
    assert rows["pipeline, fp32"]["guidance"] == 2  # where its own distance is least
    timed = [r["name"] for r in found["rows"] if r["speed"] and r["name"].startswith("library")]
    # one step is not as good, an interval at w = 3 neither
    assert timed == [
        "library, ddpm, 3 steps, w = 2",
        "library, ddpm, 2 steps, w = 2",
        "library, dpmpp-2m, 2 steps, w = 2",
    ]
    assert len(rows) == 1 + native_bf16() + 1 + 3 * 2
    assert found["made"]["max_difference"] <= 1  # the weights are those of the run in both
    ratios_are_of_rows(found, rows)
    assert {"sampling, equal quality", "fewer evaluations"} < {r["name"] for r in found["ratios"]}
    assert isinstance(page.cost([found], "quality"), Html)
    (axes,) = page.quality([found]).axes
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["ddpm", "dpmpp-2m"]


def test_where_nothing_is_as_good_there_is_no_such_ratio(drawn):
    found = drawn(lambda steps, w: 100 + 50 * (steps < 3))
    assert [r["name"] for r in found["ratios"]] == ["library alone"]


# The page


def test_the_page_escapes_what_a_report_holds_and_says_when_there_is_none(small):
    rows = [{"name": "<script>", "speed": {"median": 2.0, "low": 1.0, "high": 3.0}, "steps": 3, "max_difference": 0}]
    found = measuring.report("sample", small, rows, [measuring.ratio("a", [2.0], [1.0], "<b> / <i>")])
    for table in (page.ratios([found]), page.cost([found], "sample")):
        assert "<script>" not in table.text
        assert "<b>" not in table.text
    assert "mnist/smoke" not in page.ratios([found]).text
    assert page.ratios([found, found]).text.count(page.where(found)) == 2
    assert page.speeds([found, found]).axes[0].get_xlabel() == "images per second"
    for shown in (
        page.speeds([]),
        page.quality([]),
        page.ratios([]),
        *(page.cost([], bench) for bench in page.COLUMNS),
    ):
        assert "Not measured yet" in shown.text
    told = {
        "made": found["made"],
        "ratios": [{"name": page.WHOLE[0], "value": v, "low": v - 0.1, "high": v + 0.1} for v in (2, 1, 0.5)],
    }
    assert [part.rpartition(", ")[2] for part in page.findings([told]).text.removesuffix("</li></ul>").split("; ")] == [
        "faster",
        "no difference shown",
        "slower",
    ]
    assert page.findings([{"made": found["made"], "ratios": []}]).text == ""
    assert page.machines([]) == "nothing was measured yet"
    assert page.machines([found], [found]).startswith("mnist/smoke on ")


# Latents


@pytest.fixture
def faces(shared, tmp_path, monkeypatch):
    """Params of drawn faces, whose autoencoder all tests share. It is forgotten afterwards: others train theirs."""
    monkeypatch.setenv("GUIDEBOOK_RUNS", str(shared(tmp_path / "runs")))
    yield load_params("celeba", "smoke")
    autoencoder.cache_clear()


def test_latents_encoded_in_the_step_are_those_that_are_kept(faces):
    params = faces.replace(train={"precision": "fp32"})
    data, vae = load(params.data), latents._autoencoder(params)
    kept, encoded = Latents(params, vae), latents.Encoding(params, vae)
    rng = torch.Generator().manual_seed(0)
    unmirrored, noise = torch.zeros(6, dtype=torch.bool), kept.noise(6, rng)
    there = kept.x0(kept.learnt(data).train.images[:6], unmirrored, noise)
    here = encoded.x0(encoded.learnt(data).train.images[:6], unmirrored, noise)
    torch.testing.assert_close(here, there, rtol=5e-3, atol=5e-3)  # they are kept in half precision
    assert here.std() > 0.3


def test_the_report_on_latents_holds_every_way_and_its_ratios_are_those_of_its_rows(faces, here):
    found = latents.latents(faces, repeats=2)
    assert read("latents") == [found]
    rows = {r["name"]: r for r in found["rows"]}
    few, many = ("32", "32") if torch.cuda.is_available() else ("1", "8")
    named = [f"{way}, batch {many}" for way in (latents.KEPT, latents.ENCODED)]
    few_named = [f"{way}, batch {few}" for way in (latents.KEPT, latents.PIXELS)]
    assert list(rows) == list(dict.fromkeys(named + few_named))
    assert {r["elements"] for n, r in rows.items() if n != few_named[1]} == {4 * 8 * 8}
    assert rows[few_named[1]]["elements"] == 3 * 16 * 16
    for name, row in rows.items():
        rate = int(name.split()[-1]) / row["step_s"]
        assert 0.999 * row["speed"]["low"] <= rate <= 1.001 * row["speed"]["high"]
    assert found["made"]["bytes_per_image"] == 2 * 2 * 4 * 8 * 8
    encoded, pixels = found["ratios"]
    assert encoded["repeats"] == 2
    speeds = [rows[name]["speed"]["median"] for name in named]
    assert encoded["value"] == pytest.approx(speeds[0] / speeds[1])
    assert pixels["repeats"] == (2 if torch.cuda.is_available() else 1)
    shown = page.cost([found], "latents").text + page.latents_sample([found]).text
    assert "768" in shown
    assert "published weights" in shown


def test_processes_that_share_the_building_of_a_cache_are_timed_until_the_last_one_ends(forked):
    found = cache.cache(load_params("celeba", "demo"), part=16 * 32**2, repeats=1)
    assert read("cache") == [found]
    speeds = {r["name"]: r["speed"]["median"] for r in found["rows"]}
    one, shared, each = "1 process", "2 processes, one cache", "2 processes, a cache each"
    assert list(speeds)[:3] == [one, shared, each]
    assert min(speeds.values()) > 0
    ratios = [speeds[shared] / speeds[one], speeds[shared] / speeds[each]]
    assert [r["value"] for r in found["ratios"]][:2] == pytest.approx(ratios)
    assert "2 processes / 1" in page.ratios([found]).text
    assert (found["made"]["kind"], found["made"]["cores"]) == ("cpu", 1)
    most = int(found["rows"][-1]["name"].split()[0])
    assert found["rows"][0]["images"] == 2 * 16 * most  # two parts for each


# Sizes of a batch


def test_the_batches_report_every_size(monkeypatch, tiny, here):
    monkeypatch.setattr(batch, "SECONDS", 0.01)
    found, b = batch.batch(tiny, repeats=2), tiny.train.batch
    assert read("batch") == [found]
    assert [r["batch"] for r in found["rows"]] == [b // 2, b, 2 * b]
    assert all(r["memory_mb"] == 5 and set(r["ms_by_part"]) == set(PARTS) for r in found["rows"])
    assert [r["steps_per_epoch"] for r in found["rows"]] == [8, 4, 2]
    assert "thesis, A100" in loading.batches([found]).text


def test_a_step_of_the_bench_of_latents_runs_in_all_three_ways(faces):
    found = {way: latents._step(faces.yaml(), way) for way in (latents.KEPT, latents.ENCODED, latents.PIXELS)}
    assert found[latents.KEPT]["elements"] == found[latents.ENCODED]["elements"] < found[latents.PIXELS]["elements"]
    assert all(f["step_s"] > 0 for f in found.values())


def test_its_random_autoencoder_is_of_the_published_size():
    network = latents._autoencoder(load_params("celeba", "paper")).network
    assert sum(p.numel() for p in network.parameters()) == 83_653_863
