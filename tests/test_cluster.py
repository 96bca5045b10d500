"""What `params/cluster.yml` may say, and how its times are read."""

import pytest

from guidebook.config.params import ParamsError, check, read
from guidebook.config.paths import PARAMS
from guidebook.slurm import site
from guidebook.slurm.site import Cluster


def asking(**changes) -> Cluster:
    return check(read(PARAMS / "cluster.yml") | changes, "cluster.yml", Cluster)


def test_the_file_that_comes_with_the_study_is_right():
    assert site.load() == asking()


@pytest.mark.parametrize(
    ("changes", "processes"),
    [
        ({"nodes": 1, "gpus": 0}, 1),
        ({"nodes": 1, "gpus": 4}, 4),
        ({"nodes": 3, "gpus": 4}, 12),
        ({"nodes": 2, "gpus": 0}, 2),
        ({"nodes": 2, "gpus": "a100:3"}, 6),
    ],
)
def test_there_is_one_process_a_gpu_and_at_least_one_a_node(changes, processes):
    assert asking(**changes).processes == processes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("1:30:00", 5400),
        ("1-2", 93_600),
        ("1-2:30", 95_400),
        ("1-0:0:30", 86_430),
    ],
)
def test_times_are_read_as_slurm_reads_them(text, seconds):
    assert site._seconds(text) == seconds


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("partition", "gpu;rm -rf ~"), ("partition", "gpu\n#SBATCH --wrap=x"), ("account", "$(id)"), ("qos", "-x"), ("qos", ""),
        ("time", "forever"), ("time", "24h"), ("time", 24), ("nodes", 0), ("nodes", True), ("gpus", -1), ("cpus", "8"),
        ("memory", "64 GB"), ("memory", 64), ("notice", 0), ("setup", ["a\nb"]), ("setup", "module load x"),
        ("container", "a\nb"), ("environment", {"A B": "1"}), ("environment", {"A": "1\n2"}), ("environment", {"A": 1}),
        ("partitoin", "gpu"), ("gpus", "a100"), ("gpus", "a100:x"), ("gpus", True), ("throttle", 0), ("sbatch", ["-C x"]),
        ("sbatch", ["--array=0-9"]), ("sbatch", ["--comment=a\nb"]), ("environment", {"GUIDEBOOK_RUNS": "/x"}),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_refused_in_one_line_with_its_key(key, value):
    with pytest.raises(ParamsError) as refused:
        asking(**{key: value})
    assert str(refused.value).startswith(f"cluster.yml: {key}")
    assert "\n" not in str(refused.value)


def test_a_misspelt_key_is_shown_the_nearest():
    with pytest.raises(ParamsError, match=r"partitoin is not a parameter \(nearest: partition\)"):
        asking(partitoin="gpu")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"mnist": {"time": "soon"}}, "overrides.mnist: time = "),
        ({"mnist": {"gpu": 1}}, "overrides.mnist: gpu is not a parameter (nearest: gpus)"),
        ({"mnits": {"gpus": 1}}, "overrides.mnits: neither `book` nor an experiment (nearest: mnist)"),
    ],
)
def test_overrides_are_checked_like_the_keys_they_override(overrides, said, monkeypatch):
    raw = read(PARAMS / "cluster.yml") | {"overrides": overrides}
    monkeypatch.setattr(site, "read", lambda path: raw)
    with pytest.raises(ParamsError) as refused:
        site.load()
    assert str(refused.value).startswith(f"cluster.yml: {said}")
