"""The command that measures: what it is asked for, and what it refuses before anything heavy is imported."""

import pytest

from bench import BENCHES
from bench.__main__ import main

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
        (["loop"], True, None),
    ],
)
def test_a_bench_measures_the_experiment_and_profile_that_were_asked_for(words, gpu, measured, monkeypatch):
    def measure(say, params=None):
        said.append(params and f"{params.experiment}/{params.profile}")

    said = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("bench.BENCHES", dict.fromkeys(BENCHES, measure))
    main(words)
    assert said == [measured]


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_can_be_asked_for(name, monkeypatch, capsys):
    monkeypatch.setattr("bench.BENCHES", {name: lambda say, params=None: say(f"measured {name}")})
    main([name])
    assert capsys.readouterr().out == f"measured {name}\n"
