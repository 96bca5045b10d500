"""What `params/cluster.yml` may say, and what of it would wait for ever."""

import pytest

from guidebook.config.params import ParamsError, check, read
from guidebook.config.paths import PARAMS
from guidebook.slurm import site
from guidebook.slurm.site import Cluster, fits

# Two partitions as `sinfo -h -o '%P|%l|%D|%c|%m|%G'` shows them: nodes that differ, a default, a limit.
SINFO = """\
gpu*|2-00:00:00|4|64|512000|gpu:a100:4(S:0-1)
gpu*|2-00:00:00|1|96+|1024000+|gpu:h200:8(S:0-1)
cpu|infinite|20|128|256000|(null)
"""


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
    ],
)
def test_there_is_one_process_a_gpu_and_at_least_one_a_node(changes, processes):
    assert asking(**changes).processes == processes


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": 5, "gpus": 4, "cpus": 16, "memory": "500G", "time": "2-00:00:00"},
        {"nodes": 1, "gpus": 8, "cpus": 12, "memory": "1000G"},
        {"partition": "cpu", "nodes": 20, "gpus": 0, "cpus": 128, "time": "30-00"},
        {"memory": None},
    ],
)
def test_a_request_that_some_nodes_can_meet_fits(changes):
    assert fits(asking(**changes), SINFO) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"partition": "night"}, "partition night is not there; allowed: cpu, gpu"),
        ({"partition": "cpu", "gpus": 1}, "gpus asks for 1 GPUs a node, partition cpu has 0"),
        ({"gpus": 9, "cpus": 1}, "gpus asks for 9 GPUs a node, the default partition has 8"),
        ({"gpus": 4, "cpus": 25}, "cpus asks for 100 CPUs a node, the default partition has 96"),
        ({"memory": "1001G"}, "memory asks for 1.02502e+06 MB a node, the default partition has 1.024e+06"),
        ({"time": "2-00:01"}, "time asks for 2881 minutes, the default partition has 2880"),
        ({"nodes": 6, "gpus": 4}, "nodes asks for 6, the default partition has 5 that are large enough"),
        ({"nodes": 2, "gpus": 8}, "nodes asks for 2, the default partition has 1 that are large enough"),
    ],
)
def test_a_request_that_would_wait_for_ever_is_told_why(changes, said):
    answer = fits(asking(**changes), SINFO)
    assert said in answer
    assert "\n" not in answer


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90:30", 90.5),
        ("1:30:00", 90),
        ("1-2", 1560),
        ("1-2:30", 1590),
        ("1-0:0:30", 1440.5),
        ("infinite", float("inf")),
    ],
)
def test_times_are_read_as_slurm_reads_them(text, minutes):
    assert site._minutes(text) == minutes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("partition", "gpu;rm -rf ~"), ("partition", "gpu\n#SBATCH --wrap=x"), ("account", "$(id)"), ("qos", "-x"), ("qos", ""),
        ("time", "forever"), ("time", "24h"), ("time", 24), ("nodes", 0), ("nodes", True), ("gpus", -1), ("cpus", "8"),
        ("memory", "64 GB"), ("memory", 64), ("notice", 0), ("setup", ["a\nb"]), ("setup", "module load x"),
        ("container", "a\nb"), ("environment", {"A B": "1"}), ("environment", {"A": "1\n2"}), ("environment", {"A": 1}),
        ("partitoin", "gpu"),
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
