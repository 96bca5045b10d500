"""What differs from cluster to cluster: `params/cluster.yml`, checked like every params file."""

import re
from typing import Annotated

from pydantic import Field, model_validator

from guidebook.config.params import check
from guidebook.config.paths import PARAMS
from guidebook.config.schema import Section, Tuple
from guidebook.config.yamlfile import read

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,@:=-]{0,99}$")]
Line = Annotated[str, Field(pattern=r"^[^\n\r\x00]{1,1000}$")]
TIME = r"^(\d{1,3}-\d{1,2}(:\d{2}){0,2}|\d{1,6}(:\d{2}){0,2})$"  # D-HH[:MM[:SS]], or minutes, MM:SS, H:MM:SS
UNITS = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}  # of memory, in MB


class Cluster(Section):
    """One cluster, and how much of it a task asks for."""

    partition: Name | None  # null: the cluster's default
    account: Name | None
    qos: Name | None
    time: Annotated[str, Field(pattern=TIME)]  # a task goes on after it, in another life
    notice: Annotated[int, Field(ge=5, le=3600)]  # seconds before the limit in which a task saves and leaves
    nodes: Annotated[int, Field(ge=1, le=1024)]  # a task
    gpus: Annotated[int, Field(ge=0, le=64)]  # a node; one process each
    cpus: Annotated[int, Field(ge=1, le=1024)]  # a process
    memory: Annotated[str, Field(pattern=r"^\d{1,9}[KMGT]?$")] | None  # a node
    setup: Annotated[tuple[Line, ...], Tuple(0)]  # shell lines before everything else: module load …
    container: Line | None  # the command before ours: apptainer exec --nv guidebook.sif
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Line]

    @model_validator(mode="after")
    def _possible(self):
        if self.notice >= 60 * _minutes(self.time):
            raise ValueError(f"notice = {self.notice} s must be less than time = {self.time}, or no task could work")
        if self.container and self.nodes > 1:
            raise ValueError("container = … needs nodes = 1: inside it there is no srun to reach the others")
        return self

    @property
    def processes(self) -> int:
        """Processes of a task, where `train.processes` is not set: one a GPU."""
        return self.nodes * max(1, self.gpus)


def load() -> Cluster:
    """`params/cluster.yml`. Raises ParamsError."""
    return check(read(PARAMS / "cluster.yml"), "cluster.yml", Cluster)


def fits(cluster: Cluster, sinfo: str) -> str | None:
    """Why a task would wait for ever, or None. `sinfo`: what `sinfo -h -o '%P|%l|%D|%c|%m|%G'` says of all partitions."""
    rows = [dict(zip("PlDcmG", line.split("|"), strict=True)) for line in sinfo.splitlines()]
    names = sorted({row["P"].rstrip("*") for row in rows})
    wanted = cluster.partition
    there = [r for r in rows if r["P"].rstrip("*") == wanted] if wanted else [r for r in rows if r["P"].endswith("*")]
    where = f"partition {wanted}" if wanted else "the default partition"
    if not there:
        return f"cluster.yml: {where} is not there; allowed: {', '.join(names)}"
    per_node = cluster.processes // cluster.nodes * cluster.cpus
    asked = {
        "cpus": (per_node, [_number(r["c"]) for r in there], "CPUs a node"),
        "gpus": (cluster.gpus, [_gpus(r["G"]) for r in there], "GPUs a node"),
        "memory": (_megabytes(cluster.memory), [_number(r["m"]) for r in there], "MB a node"),
        "time": (_minutes(cluster.time), [_minutes(r["l"]) for r in there], "minutes"),
    }
    for key, (want, have, unit) in asked.items():
        if want > max(have):
            return f"cluster.yml: {key} asks for {want:g} {unit}, {where} has {max(have):g}: it would wait for ever"
    enough = [all(want <= have[i] for want, have, _ in asked.values()) for i in range(len(there))]
    nodes = sum(_number(r["D"]) for r, ok in zip(there, enough, strict=True) if ok)
    if cluster.nodes > nodes:
        return f"cluster.yml: nodes asks for {cluster.nodes}, {where} has {nodes} that are large enough: it would wait for ever"
    return None


def _number(text: str) -> int:
    return int(re.match(r"\d+", text)[0])  # sinfo writes 64+ where nodes differ


def _gpus(gres: str) -> int:
    """`gpu:4`, `gpu:a100:4(S:0-1)` or `(null)`."""
    return sum(int(n) for n in re.findall(r"gpu(?::[^:,()]+)?:(\d+)", gres))


def _megabytes(memory: str | None) -> float:
    number, unit = re.fullmatch(r"(\d+)([KMGT]?)", memory or "0").groups()
    return int(number) * UNITS[unit]


def _minutes(text: str) -> float:
    """SLURM's ways of writing a time."""
    if text in ("infinite", "n/a"):
        return float("inf")
    days, _, clock = text.rpartition("-")
    parts = [int(x) for x in clock.split(":")]
    if days:  # D-HH[:MM[:SS]]
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:  # MM, MM:SS or HH:MM:SS
        hours, minutes, seconds = {1: (0, *parts, 0), 2: (0, *parts), 3: tuple(parts)}[len(parts)]
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60
