"""The description of a cluster: `params/cluster.yml`, checked like every params file."""

from typing import Annotated

from pydantic import Field

from guidebook.config.params import check
from guidebook.config.paths import PARAMS
from guidebook.config.schema import Section, Tuple
from guidebook.config.yamlfile import read

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.,@:=-]{0,99}$")]
Line = Annotated[str, Field(pattern=r"^[^\n\r\x00]{1,1000}$")]
TIME = r"^(\d{1,3}-\d{1,2}(:\d{2}){0,2}|\d{1,6}(:\d{2}){0,2})$"  # D-HH[:MM[:SS]], or minutes, MM:SS, H:MM:SS


class Cluster(Section):
    """One cluster, and the resources of one task on it."""

    partition: Name | None  # null: the cluster's default
    account: Name | None
    qos: Name | None
    time: Annotated[str, Field(pattern=TIME)]  # limit of one start of a task; the next one continues
    notice: Annotated[int, Field(ge=5, le=3600)]  # seconds before the limit in which a task saves and exits
    nodes: Annotated[int, Field(ge=1, le=1024)]  # a task
    gpus: Annotated[int, Field(ge=0, le=64)]  # a node; one process each
    cpus: Annotated[int, Field(ge=1, le=1024)]  # a process
    memory: Annotated[str, Field(pattern=r"^\d{1,9}[KMGT]?$")] | None  # a node
    setup: Annotated[tuple[Line, ...], Tuple(0)]  # shell lines at the start: module load …
    container: Line | None  # the command before ours: apptainer exec --nv guidebook.sif
    environment: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Line]

    def conflicts(self):
        if self.notice >= _seconds(self.time):
            yield f"notice = {self.notice} s must be less than time = {self.time}, or no task could work"
        if self.container and self.nodes > 1:
            yield "container = … needs nodes = 1: inside it there is no srun to reach the others"

    @property
    def processes(self) -> int:
        """Processes of a task where `train.processes` is not set: one a GPU."""
        return self.nodes * max(1, self.gpus)


def load() -> Cluster:
    """`params/cluster.yml`. Raises ParamsError."""
    return check(read(PARAMS / "cluster.yml"), "cluster.yml", Cluster)


def _seconds(text: str) -> int:
    """A time in SLURM's notation: D-HH[:MM[:SS]], MM, MM:SS or HH:MM:SS."""
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    clock = ([*parts, 0, 0] if days or len(parts) == 3 else [0, *parts, 0])[:3]
    return sum(n * unit for n, unit in zip([int(days or 0), *clock], (86400, 3600, 60, 1), strict=True))
