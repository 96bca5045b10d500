"""The description of a cluster: `params/cluster.yml`, checked like every params file."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from guidebook.config.errors import ParamsError, nearest
from guidebook.config.params import check
from guidebook.config.paths import PARAMS
from guidebook.config.schema import Section, Tuple
from guidebook.config.yamlfile import read

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,@:=-]{0,99}$")]
Line = Annotated[str, Field(pattern=r"^[^\n\r\x00]{1,1000}$")]
Option = Annotated[str, Field(pattern=r"^--[a-z][a-z-]*(=[^\n\r\x00]{1,1000})?$")]
TIME = r"^(\d{1,3}-\d{1,2}(:\d{2}){0,2}|\d{1,6}(:\d{2}){0,2})$"  # D-HH[:MM[:SS]], or minutes, MM:SS, H:MM:SS
GPUS = r"^([A-Za-z][A-Za-z0-9_.-]{0,39}:)?\d{1,2}$"  # 4, or of one type: a100:4
# Options that continuing a task depends on, or that have a key of their own
OURS = (
    "array", "cpus-per-task", "dependency", "gpus-per-node", "gres", "job-name", "mem", "no-requeue", "nodes", "ntasks-per-node",
    "open-mode", "output", "requeue", "signal", "test-only", "time",
)  # fmt: skip
BOOK = "book"  # the job that builds the book, in `overrides`


class Cluster(Section):
    """One cluster, and the resources of one task on it."""

    partition: Name | None  # null: the cluster's default
    account: Name | None
    qos: Name | None
    time: Annotated[str, Field(pattern=TIME)]  # limit of one start of a task; the next one continues
    notice: Annotated[int, Field(ge=5, le=3600)]  # seconds before the limit in which a task saves and exits
    nodes: Annotated[int, Field(ge=1, le=1024)]  # a task
    gpus: Annotated[str, BeforeValidator(str), Field(pattern=GPUS)]  # a node; one process each
    cpus: Annotated[int, Field(ge=1, le=1024)]  # a process
    memory: Annotated[str, Field(pattern=r"^\d{1,9}[KMGT]?$")] | None  # a node
    throttle: Annotated[int, Field(ge=1, le=10_000)] | None = None  # tasks of an array that run at once
    sbatch: Annotated[tuple[Option, ...], Tuple(0)] = ()  # further options: --constraint=h100
    logs: Line | None = None  # folder of the jobs' output; null: jobs/ in the folder of runs
    setup: Annotated[tuple[Line, ...], Tuple(0)]  # shell lines at the start: module load …
    container: Line | None  # the command before ours: apptainer exec --nv guidebook.sif
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Line]
    overrides: dict[str, dict[str, Any]] = Field({})  # of the keys above: by experiment, and for the book

    def conflicts(self):
        if self.notice >= _seconds(self.time):
            yield f"notice = {self.notice} s must be less than time = {self.time}, or no task could work"
        if self.container and self.nodes > 1:
            yield "container = … needs nodes = 1: inside it there is no srun to reach the others"
        if "GUIDEBOOK_RUNS" in self.environment:  # a job's signals are files in the folder that the script names
            yield "environment = GUIDEBOOK_RUNS: export it before `guidebook submit`, which passes it on"
        for name in (option[2:].partition("=")[0] for option in self.sbatch):
            if name in OURS:
                yield f"sbatch = --{name}…: a key of this file says that, or continuing a task depends on it"

    @property
    def processes(self) -> int:
        """Processes of a task where `train.processes` is not set: one a GPU."""
        return self.nodes * max(1, self.gpus_per_node)

    @property
    def gpus_per_node(self) -> int:
        return int(self.gpus.rpartition(":")[2])

    def job(self, name: str) -> "Cluster":
        """The resources of the tasks of one experiment, or of the book. Raises ParamsError."""
        changes = {"overrides": {}} | self.overrides.get(name, {})
        return check(self.model_dump() | changes, f"cluster.yml: overrides.{name}", Cluster)


def load() -> Cluster:
    """`params/cluster.yml`. Raises ParamsError."""
    cluster = check(read(PARAMS / "cluster.yml"), "cluster.yml", Cluster)
    names = [BOOK, *sorted(folder.name for folder in PARAMS.glob("*/"))]
    for name in cluster.overrides:
        cluster.job(name)
        if name not in names:
            wrong = f"neither `{BOOK}` nor an experiment{nearest(name, names)}"
            raise ParamsError(f"cluster.yml: overrides.{name[:60]}: {wrong}")
    return cluster


def _seconds(text: str) -> int:
    """A time in SLURM's notation: D-HH[:MM[:SS]], MM, MM:SS or HH:MM:SS."""
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    clock = ([*parts, 0, 0] if days or len(parts) == 3 else [0, *parts, 0])[:3]
    return sum(n * unit for n, unit in zip([int(days or 0), *clock], (86400, 3600, 60, 1), strict=True))
