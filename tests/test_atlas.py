"""The atlas: every size and cost that the documents state, counted anew from the networks they are of."""

import html
import json
import re
import time

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DiTTransformer2DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.costs import costs
from guidebook.book import atlas as chapter
from guidebook.book import pages
from guidebook.config.params import ParamsError, check, load
from guidebook.config.paths import BOOK
from guidebook.models import counting, published
from guidebook.models.atlas import Atlas, Counted, Derived, Law, load_atlas, number
from guidebook.models.counting import answers, count, counted
from guidebook.models.published import Measured, cost, measure
from guidebook.report.claims import every
from guidebook.runs import checked

# What each configuration is known to have, to the digit
PARAMETERS = {
    "mnist": 3_140_385, "cifar10": 87_983_363, "wikiart": 347_990_531, "celeba": 109_370_116,
    "sd1": 859_520_964, "sd1-text": 123_060_480, "sd1-vae": 83_653_863, "sd2": 865_910_724, "sd-upscaler": 473_398_020,
    "sdxl": 2_567_463_684, "sdxl-refiner": 2_259_526_660, "sdxl-text": 694_659_840,
    "sd3-15": 496_066_624, "sd3-18": 856_159_552, "sd3-21": 1_358_950_720, "sd3-24": 2_028_328_000, "sd3-30": 3_962_392_384,
    "sd3-38": 8_056_617_792, "sd35-large": 8_056_627_520, "sd35-medium": 2_243_171_520, "sd3-vae": 83_819_683,
    "t5-xxl": 4_762_310_656, "flux-dev": 11_901_408_320, "flux-schnell": 11_891_178_560,
    "dit-s2": 32_865_056, "dit-s4": 32_920_448, "dit-s8": 33_142_016, "dit-b2": 130_315_808, "dit-b4": 130_426_496,
    "dit-b8": 130_869_248, "dit-l2": 457_840_672, "dit-l4": 457_988_224, "dit-l8": 458_578_432, "dit-xl2": 674_834_720,
    "dit-xl4": 675_000_704, "dit-xl8": 675_664_640,
    "li-128": 423_971_332, "li-192": 902_336_260, "li-320": 2_391_824_644, "li-384": 3_402_948_100,
    "li-depth-2": 849_373_444, "li-depth-4": 1_234_986_244, "li-depth-6": 1_620_599_044, "li-depth-8": 2_006_211_844,
    "li-depth-12": 2_777_437_444, "li-depth-14": 3_163_050_244, "li-efficient": 1_321_930_244,
    "pixart-1152": 607_317_152, "pixart-1152-deep": 1_202_472_608, "pixart-1536": 1_078_715_936, "pixart-2048": 1_916_438_560,
    "clip-b32": 63_165_952, "clip-h": 352_984_064, "hps": 986_109_441,
    "imagereward-image": 303_301_632, "imagereward-text": 141_977_088,
}  # fmt: skip


def verdicts_of(atlas: Atlas, at: dict[str, Measured]) -> dict[str, str]:
    return {name: verdict for name, (_, verdict) in answers(atlas, at).items()}


WITH_TABLES = {"dit-s2": 32_963_360, "dit-xl2": 675_129_632}
GMAC = {
    "sd1": 401.6, "sd1-small": 6.81, "sd2": 90.5, "li-320": 200.8, "li-efficient": 145.7, "celeba": 20.9 / 2, "cifar10": 18.0 / 2,
    "dit-s4": 1.41, "dit-b4": 5.57, "dit-l4": 19.7, "dit-xl4": 29.04, "dit-s2": 6.06, "dit-xl2": 118.6, "dit-xl2-large": 524.5,
}  # fmt: skip
ROW = {"id": "x", "says": "a network", "source": "thesis2026", "where": "table 1"}
TINY = {
    "in_channels": 3, "out_channels": 3, "block_out_channels": [32, 64], "layers_per_block": 1, "cross_attention_dim": 16,
    "attention_head_dim": 4, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip
DIT = {
    "in_channels": 4, "out_channels": 8, "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 8, "patch_size": 2,
    "sample_size": 8, "num_embeds_ada_norm": 10,
}  # fmt: skip


@pytest.fixture(scope="module")
def known() -> Atlas:
    return load_atlas()


@pytest.fixture(scope="module")
def found(known) -> dict[str, Measured]:
    """All networks, counted anew, within a minute of one core."""
    began = time.process_time()
    counts = count(known)
    assert time.process_time() - began < 60
    return counts


# What was counted


def test_the_repository_keeps_what_is_counted(found):
    """Else, and after a change of a network or a profile: `python -m bench.costs` counts them anew."""
    assert checked.load(counting.FILE) == costs(found)


def test_nothing_is_counted_that_the_repository_keeps(known, found, runs, monkeypatch):
    monkeypatch.setattr(published, "cost", lambda _: pytest.fail("counted again"))
    monkeypatch.setattr(counting, "count", lambda _: pytest.fail("counted again"))
    assert counted(known) == found
    assert counting.cost(load("mnist", "paper")).parameters == PARAMETERS["mnist"]
    assert list(runs.iterdir()) == []


def test_every_network_has_the_parameters_that_it_is_known_to_have(known, found):
    counts = {row.id: found[row.id].parameters for row in known.counts if row.unit == "parameters"}
    again = [name for name in counts if name not in PARAMETERS]
    assert again == ["mnist-digits", "mnist-again", "mnist-third"]
    assert {name: counts[name] for name in PARAMETERS} == PARAMETERS
    assert {counts[name] for name in again} == {PARAMETERS["mnist"]}
    assert len(counts) >= 45


def test_fixed_tables_stand_beside_them(known, found):
    assert {name: found[name].parameters + found[name].tables for name in WITH_TABLES} == WITH_TABLES
    assert found["sd35-medium"].tables == 384**2 * 24 * 64
    medium = known.resolved()["sd35-medium"]
    assert medium.verdict(medium.found(found["sd35-medium"])) == "holds"
    assert medium.verdict(found["sd35-medium"].parameters) == "does not hold: it is 0.897 times the stated number"
    assert found["sd1"].tables == found["flux-dev"].tables == 0


def test_a_count_is_the_sum_over_the_tensors_of_the_class_itself(known, found):
    rows = known.resolved()
    for name in ("sd1", "sd1-vae", "sdxl", "sd3-15", "flux-schnell", "pixart-1152", "clip-b32", "t5-xxl", "hps"):
        row = rows[name]
        made = getattr(__import__(published.NETWORKS[row.network]), row.network)
        with torch.device("meta"):
            net = (
                made(made.config_class(**row.config))
                if made.__module__.startswith("transformers")
                else made(**row.config)
            )
        assert sum(p.numel() for p in net.parameters()) == found[name].parameters, name


@pytest.mark.parametrize("name", ["dit-s4", "dit-xl4"])
def test_dit_has_one_embedder_and_diffusers_one_in_every_block(name, known, found):
    config = known.resolved()[name].config
    with torch.device("meta"):
        stock = sum(p.numel() for p in DiTTransformer2DModel(**config).parameters())
    n, d = config["num_layers"], config["num_attention_heads"] * config["attention_head_dim"]
    assert stock - found[name].parameters == (n - 1) * (257 * d + d**2 + d + 1001 * d)


def test_forwards_cost_what_they_are_known_to_cost(found):
    assert {name: found[f"{name}-gmac"].total / 1e9 for name in GMAC} == pytest.approx(GMAC, rel=0.006)


@pytest.mark.parametrize("experiment", ["mnist", "celeba"])
def test_the_studys_own_networks_cost_what_the_rest_of_the_study_says(experiment, found):
    of = cost(load(experiment, "paper"))
    assert (found[experiment].parameters, found[experiment].total) == (of.parameters, of.total)


def test_an_image_from_latents_costs_what_the_claim_says_with_the_decoder(known):
    paper = load("imagenet100", "paper")
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        AutoencoderKL(**known.resolved()["sd1-vae"].config).decode(torch.zeros(1, 4, 32, 32))
    of = [cost(p).gmac for p in (paper.replace(model={"vae": None}), paper)]
    assert (paper.data.resolution, paper.sample.steps) == (256, 50)
    assert [*of, counter.get_total_flops() / 2e9] == pytest.approx([1392.4, 10.474, 311.09], rel=1e-4)


# Of a block: two convolutions and the embedding's linear layer, a gain, a skip where the width changes; attention's queries, keys and
# values, and what is behind them (Karras et al. 2024, config G: tables 6 and 7)
def edm2(width: int) -> int:
    """The parameters of EDM2's network of a width, at 64 × 64 latents of 4 channels and 1,000 classes."""
    widths, sides, n = [width * k for k in (1, 2, 3, 4)], (64, 32, 16, 8), 3
    emb = widths[-1]

    def block(i: int, o: int, first: int, attends: bool) -> int:
        return 9 * o * (first + o) + emb * o + 1 + i * o * (i != o) + 4 * o * o * attends

    total, out, skips = width * emb + 1000 * emb + 9 * 5 * width, width, [width]  # one channel more, of ones
    for level, (w, side) in enumerate(zip(widths, sides, strict=True)):
        if level:
            total += block(out, out, out, False)  # halves the side
            skips.append(out)
        for i in (out, *[w] * (n - 1)):
            total += block(i, w, w, side <= 16)
        out, skips = w, [*skips, *[w] * n]
    total += block(out, out, out, True)
    for w, side in zip(widths[::-1], sides[::-1], strict=True):
        total += block(out, out, out, False)  # at the coarsest level the second block, elsewhere it doubles the side
        for i in (out, *[w] * n):
            total += block(wide := i + skips.pop(), w, wide, side <= 16)
        out = w
    return total + 9 * width * 4 + 1 + 128  # the last layer with its gain, and the weight of the loss


def test_edm2_has_the_parameters_that_the_claim_says():
    found = every()["lecture-edm2-sizes"].answer.found
    assert edm2(192) == 280_212_837
    assert [f"{edm2(w) / 1e6:,.1f}" in found for w in (128, 192, 256, 320, 384, 448)] == [True] * 6


# The counter


def test_multiply_adds_are_those_counted_by_hand():
    side, p, n, c = DIT["sample_size"], DIT["patch_size"], DIT["num_layers"], DIT["in_channels"]
    d, places = 16, (side // p) ** 2
    embedder = 256 * d + d * d
    of = measure("DiTTransformer2DModel", DIT, side=side).macs
    assert of["convolutions"] == places * d * c * p**2
    assert of["self-attention"] == n * 2 * places**2 * d  # queries by keys, weights by values
    assert of["cross-attention"] == 0
    block = 4 * places * d**2 + 8 * places * d**2 + 6 * d**2
    assert of["linear layers"] == n * block + (n + 1) * embedder + 2 * d**2 + places * d * p**2 * DIT["out_channels"]


def test_each_part_grows_with_side_and_text_as_it_should():
    small, large, wordy = (
        measure("UNet2DConditionModel", TINY, side=s, tokens=t) for s, t in ((8, 5), (16, 5), (8, 10))
    )
    times = {part: large.macs[part] / small.macs[part] for part in small.macs}
    assert {part: round(x, 9) for part, x in times.items() if part != "linear layers"} == {
        "convolutions": 4, "self-attention": 16, "cross-attention": 4,
    }  # fmt: skip
    assert 3.5 < times["linear layers"] < 4  # those of the timestep see no place
    more = {part: wordy.macs[part] / small.macs[part] for part in small.macs}
    assert (more["convolutions"], more["self-attention"], more["cross-attention"]) == (1, 1, 2)


def test_without_a_forward_nothing_is_run():
    of = measure("UNet2DConditionModel", TINY)
    assert (of.total, of.activations, of.coarsest) == (0, 0, 2)
    assert of.parameters == measure("UNet2DConditionModel", TINY, side=8).parameters > 0


# Verdicts


@pytest.mark.parametrize(
    ("stated", "upto", "value", "verdict"),
    [
        (100, None, 109, "holds"),
        (100, None, 91, "holds"),
        (100, None, 111, "does not hold: it is 1.11 times the stated number"),
        (100, None, 50, "does not hold: it is 0.5 times the stated number"),
        (100, 200, 150, "holds"),
        (100, 200, 219, "holds"),
        (100, 200, 400, "does not hold: it is 2 times the stated number"),
        (100, 200, 80, "does not hold: it is 0.8 times the stated number"),
    ],
)
def test_a_verdict_compares_with_what_is_stated(stated, upto, value, verdict):
    row = Counted(**ROW, network="CLIPTextModel", stated=stated, upto=upto, tolerance=0.1)
    assert row.verdict(value) == verdict


def test_a_wrong_number_planted_anywhere_does_not_hold(known, found):
    right = verdicts_of(known, found)
    wrong = known.model_dump(mode="json")
    for row in (*wrong["counts"], *wrong["derived"], *wrong["laws"]):
        for key in ("stated", "upto"):
            row[key] = row[key] and 20 * row[key]
        if row.get("kind") == "order":
            row["of"].reverse()
    verdicts = verdicts_of(check(wrong, "wrong", Atlas), found)
    assert verdicts.keys() == right.keys()
    assert [name for name, verdict in verdicts.items() if verdict == right[name] == "holds"] == []
    assert len(right) > 50


def test_what_is_known_to_be_wrong_in_the_documents_does_not_hold(known, found):
    failed = [name for name, verdict in verdicts_of(known, found).items() if verdict != "holds"]
    assert failed == [
        "mnist",
        "cifar10",
        "wikiart",
        "celeba",
        "sd1-coarsest",
        "t5-xxl",
        "depth-4-size",
        "celeba-linear",
    ]


def test_numbers_of_several_rows():
    of = {"of": ("a", "b")}
    assert Derived(**ROW, **of, kind="ratio", stated=0.5, tolerance=0.01).answer([1e6, 2e6]) == (
        "0.5, of 1 million and 2 million", "holds",
    )  # fmt: skip
    assert Derived(**ROW, **of, kind="sum", stated=4e9, tolerance=0.01).answer([1e9, 3e9])[1] == "holds"
    order = Derived(**ROW, **of, kind="order")
    assert [order.answer(values)[1][:13] for values in ([1, 2], [2, 1], [1, 1])] == [
        "holds",
        "does not hold",
        "does not hold",
    ]


def test_the_power_of_a_law_is_the_one_farthest_from_the_stated():
    law = Law(**ROW, of="a", part="convolutions", sides=(8, 16, 32), stated=2, tolerance=0.01)
    at = [Measured(1, 0, {"convolutions": macs}, 0) for macs in (1, 4, 32)]
    assert law.answer(at) == (3, "does not hold: it is 1.5 times the stated number")
    assert law.answer([*at[:2], Measured(1, 0, {"convolutions": 16}, 0)]) == (2, "holds")


def test_what_is_stated_keeps_its_digits():
    of = {"network": "CLIPTextModel", "tolerance": 0.1}
    rows = [
        Counted(**ROW, **of, stated=3_140_385),
        Counted(**ROW, **of, stated=3e8, upto=5e8),
        Counted(**ROW, network="CLIPTextModel"),
    ]
    assert [chapter._stated(row) for row in rows] == ["3,140,385", "300 million to 500 million", ""]


def test_numbers_in_words():
    assert [number(n) for n in (0.5527, 4, 2_567_463_684, 860e6)] == ["0.5527", "4", "2.567 billion", "860 million"]


# Refusals


def rows(**change) -> dict:
    return {"counts": [ROW | {"network": "CLIPTextModel"} | change]}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (rows(network="CLIPTextModl"), "network = 'CLIPTextModl' is not known (nearest: CLIPTextModel); there are: UNet2D"),
        (rows(network=None, base="y"), "x: base = 'y' is no row above it"),
        (rows(network=None, base="x"), "x: base = 'x' is no row above it"),
        (rows(base="y"), "x: give one of base, network and params"),
        (rows(network=None), "x: give one of base, network and params"),
        (rows(stated=1.0, tolerance=0.0), "tolerance = 0.0: Input should be greater than 0"),
        (rows(stated=1.0, tolerance=-0.1), "tolerance = -0.1: Input should be greater than 0"),
        (rows(stated=1.0), "x: stated and tolerance go together"),
        (rows(stated=2.0, upto=1.0, tolerance=0.1), "x: upto must be above stated"),
        (rows(unit="GFLOP"), "unit = 'GFLOP'"),
        (rows(unit="GMAC"), "x: GMAC needs a forward, and one of the networks UNet2DConditionModel"),
        (rows(unit="GMAC", forward={"side": 8}), "x: GMAC needs a forward, and one of the networks UNet2DConditionModel"),
        (rows(unit="pixels"), "x: pixels are read in a params file"),
        (rows(network=None, params="mnist/paper", config={"a": 1}), "x: mnist/paper has its configuration and its forward: give neither"),
        (rows(tolerence=0.1), "tolerence is not a parameter (nearest: tolerance)"),
        ({"counts": 2 * rows()["counts"]}, "['x'] stand twice"),
        ({"counts": []}, "counts"),
        (rows() | {"derived": [ROW | {"id": "r", "kind": "ratio", "of": ["x", "y"], "stated": 1.0, "tolerance": 0.1}]}, "r: of = 'y'"),
        (rows() | {"derived": [ROW | {"id": "r", "kind": "ratio", "of": ["x", "x"]}]}, "r: a ratio is of two rows"),
    ],
    ids=str,
)  # fmt: skip
def test_rows_that_cannot_be_are_refused_in_one_line(raw, said):
    with pytest.raises(ParamsError) as caught:
        check(raw, "atlas.yml", Atlas)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_numbers_of_unlike_units_have_no_ratio():
    pair = [ROW | {"params": "mnist/paper"}, ROW | {"id": "y", "base": "x", "unit": "pixels"}]
    ratio = ROW | {"id": "r", "kind": "ratio", "of": ["x", "y"], "stated": 1.0, "tolerance": 0.1}
    with pytest.raises(ParamsError, match="r: of names numbers of unlike units"):
        check({"counts": pair, "derived": [ratio]}, "atlas.yml", Atlas)


@pytest.mark.parametrize(
    ("network", "config", "said"),
    [
        ("CLIPTextModel", {"hidden_sise": 8}, r"CLIPTextModel has no parameter 'hidden_sise' \(nearest: hidden_size\)"),
        ("CLIPModel", {"text_config": {"hidden_sise": 8}}, "CLIPModel's text_config has no parameter 'hidden_sise'"),
        ("UNet2DConditionModel", {"chanels": [32]}, "UNet2DConditionModel has no parameter 'chanels'"),
    ],
)
def test_a_key_that_a_class_does_not_have_is_refused(network, config, said):
    (row,) = check(rows(network=network, config=config), "atlas.yml", Atlas).counts
    with pytest.raises(ParamsError, match=f"atlas.yml: x: {said}"):
        row.measure()


# The page


def test_every_source_stands_in_the_bibliography(known):
    bibliography = (BOOK / "references.bib").read_text()
    named = {row.source for row in (*known.counts, *known.derived, *known.laws, *known.open)}
    assert [source for source in named if f"{{{source}," not in bibliography] == []


def test_the_page_shows_every_row_with_its_verdict(known, found, monkeypatch):
    monkeypatch.setattr(chapter, "counted", lambda of: found)
    page = pages.atlas()
    assert "<!--" not in page
    said = html.unescape(page)
    assert [r.id for r in (*known.counts, *known.derived, *known.laws) if f"<td>{r.says}</td>" not in said] == []
    assert [o.system for o in known.open if o.system not in said] == []
    verdicts = verdicts_of(known, found)
    held = sum(verdict == "holds" for verdict in verdicts.values())
    assert f"Of {len(verdicts)} that a document states" in page
    assert f"{held} hold and {len(verdicts) - held} do not" in page
    assert page.count("<td>holds</td>") == held
    assert page.count("<td>does not hold") == len(verdicts) - held


def test_the_experiments_of_the_thesis_stand_side_by_side(known, found, monkeypatch):
    monkeypatch.setattr(chapter, "counted", lambda of: found)
    text = pages.atlas().partition("## The experiments")[2].partition("##")[0]
    lines = [re.findall("<td>(.*?)</td>", line) for line in re.findall("<tr>(.*?)</tr>", text)][1:]
    assert [line[0] for line in lines] == ["mnist", "cifar10", "wikiart", "celeba"]
    assert lines[3][1:3] == ["256 px", "4×32×32"]
    stated = "45 million (section 3.3, tables 5, 7 and 8)"
    small = f'<div class="rests">stated: {stated}</div>'
    assert lines[1][3:] == [f"87,983,363{small}", "9.00", "18.00", "176", "128", "0.0001", "50"]
    assert "stated: 25 million (table 5); 3,140,385 (section 3.2); 3.1 million (table 8); 3 million" in lines[0][3]


def test_what_was_counted_is_found_again_and_a_changed_row_counted_anew(runs, monkeypatch):
    of, calls = check(rows(config={"num_hidden_layers": 1}), "atlas.yml", Atlas), []
    monkeypatch.setattr(counting, "count", lambda a: calls.append(a) or {"x": Measured(1, 2, {"convolutions": 3}, 4)})
    assert counted(of) == counted(of) == {"x": Measured(1, 2, {"convolutions": 3}, 4)}
    assert len(calls) == 1
    counted(check(rows(config={"num_hidden_layers": 2}), "atlas.yml", Atlas))
    assert len(calls) == 2


def test_the_file_is_plain_data(known):
    assert json.dumps(yaml.safe_load((BOOK / "atlas.yml").read_text()))
    assert len(known.counts) >= 45
