"""A real SLURM on this machine, for tests: without systemd, all its files in one folder, nothing beyond loopback."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "setpriv")
ADDRESS = "127.0.0.1"
SEARCH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"  # the daemons' folders aren't in every user's PATH

CONF = """\
ClusterName=test
SlurmctldHost=localhost({address})
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits cred_expire + 1 s, by default 121 s. 5 is the least: below it the default is taken.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={port}
# Daemons and srun listen where this host's name resolves to, not on every address.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
# With linuxproc a background child outlives a batch script that exits or requeues itself.
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
# How often waiting jobs are looked at: by default every 60 s, a requeued job by the backfill every 30 s.
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
# A node set down stays down; with 2 it comes back by itself within the second.
ReturnToService=1
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode={preempt}
# A preempted job first gets the signal it asked for with --signal, then its GraceTime.
SlurmctldParameters=preempt_send_user_signal
# A node is what is written here, however many cores and however much memory the machine has.
SlurmdParameters=config_overrides
KillWait=5
# Ended jobs stay visible to scontrol, there being no accounting.
MinJobAge=3600
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
"""
NODE = "NodeName={name} NodeAddr={address} Port={port} CPUs={cpus} RealMemory=8000 Gres={gres} Feature=quick State=UNKNOWN\n"
PARTITIONS = """\
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode={preempt} GraceTime=5
PartitionName=urgent Nodes={names} MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""


def obstacle() -> str:
    """Why no cluster can be started here, and what to do; empty if one can."""
    if missing := [name for name in COMMANDS if not shutil.which(name, path=SEARCH)]:
        return f"{', '.join(missing)} missing: apt-get install -y slurmctld slurmd slurm-client munge"
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        return f"this host's name, {name}, does not resolve ({error}): add '{ADDRESS} {name}' to /etc/hosts"
    # Not even another loopback address will do: srun listens there, and is answered at 127.0.0.1.
    if address != ADDRESS:
        return f"SLURM would listen on {address}, as {name} resolves to: put '{ADDRESS} {name}' first in /etc/hosts"
    return ""


@dataclass(frozen=True)
class Cluster:
    folder: Path
    nodes: list[str]
    pids: dict[str, int]  # of the daemons: munged, slurmctld, slurmd.<node>

    @property
    def env(self) -> dict[str, str]:
        """What a process needs beside its own environment to find this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, text: str | None = None) -> str:
        """The standard output of a command; RuntimeError with all it said if it fails."""
        # If the tests run inside a job of a real cluster, its variables would be options to sbatch and srun.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
        done = subprocess.run(command, env=env | self.env, input=text, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def scontrol(self, *args: str) -> str:
        return self.run("scontrol", *args)

    def submit(self, script: str, *options: str) -> str:
        """The id of a new job of these shell lines. It writes to `<id>.log`, a task to `<id>_<task>.log`, in the folder."""
        name = "%A_%a.log" if any(option.startswith("--array") for option in options) else "%j.log"
        settings = ("--parsable", f"--chdir={self.folder}", f"--output={name}", "--open-mode=append")
        return self.run("sbatch", *settings, *options, text=f"#!/bin/bash\n{script}\n").strip()

    def show(self, job: str, key: str) -> list[str]:
        """A field of `scontrol show job`, once per job or array task; also after the end."""
        return re.findall(rf"(?<!\S){key}=(\S*)", self.scontrol("show", "job", job))

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, …; the states of an array's tasks, each once, joined by +."""
        return "+".join(sorted(set(self.show(job, "JobState"))))

    def restarts(self, job: str) -> int:
        """How often a job, or the task of an array that was most, was requeued."""
        return max(int(n) for n in self.show(job, "Restarts"))

    def wait(self, job: str, states: str | Collection[str], timeout: float = 30) -> str:
        """The state of the job once it is one of `states`; TimeoutError with `scontrol show job` after `timeout` s."""
        states = {states} if isinstance(states, str) else set(states)
        end = time.monotonic() + timeout
        while (state := self.state(job)) not in states:
            if time.monotonic() > end:
                shown, wanted = self.scontrol("show", "job", job), " or ".join(sorted(states))
                raise TimeoutError(f"job {job} is {state}, not {wanted}, after {timeout} s\n{shown}")
            time.sleep(0.1)
        return state

    def node(self, name: str, state: str) -> None:
        """Sets a node `down`, which requeues its jobs, or lets it `resume`."""
        reason = ["Reason=test"] if state == "down" else []
        self.scontrol("update", f"NodeName={name}", f"State={state}", *reason)

    def _cancel(self) -> None:
        # slurmd's end does not end its jobs.
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            self.run("scancel", "--me")
            end = time.monotonic() + 15
            while self.run("squeue", "-h", "-t", "running,completing") and time.monotonic() < end:
                time.sleep(0.1)


@contextmanager
def cluster(folder: Path, nodes: int = 1, gpus: int = 0, preempt: str = "REQUEUE") -> Iterator[Cluster]:
    """Two CPUs in all and `gpus` GPUs of type `fake` a node. Partition `urgent` preempts `main`, the default, in the given mode.

    The time limit, and with it --signal before it, is looked at every 30 s from the start on: a constant of slurmctld.
    """
    if reason := obstacle():
        raise RuntimeError(reason)
    # Named as addresses, so that a job that connects to a node by its name finds it.
    names = [f"127.0.0.{n + 1}" for n in range(nodes)]
    port, *ports = _free_ports(1 + nodes)
    for name in ("log", "state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    conf = CONF.format(folder=folder, address=ADDRESS, user=os.getuid(), port=port, preempt=preempt)
    gres = f"gpu:fake:{gpus}" if gpus else "(null)"
    for name, p in zip(names, ports, strict=True):
        conf += NODE.format(name=name, address=ADDRESS, port=p, cpus=max(1, 2 // nodes), gres=gres)
    (folder / "slurm.conf").write_text(conf + PARTITIONS.format(names=",".join(names), preempt=preempt))
    # A GPU without a file makes its node invalid; a link each makes them distinct.
    files = [folder / f"gpu{i}" for i in range(gpus)]
    for file in files:
        file.symlink_to("/dev/null")
    (folder / "gres.conf").write_text(
        "".join(f"NodeName={n} Name=gpu Type=fake File={f}\n" for n in names for f in files)
    )

    munge = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munge.seed"}
    with ExitStack() as stack:
        slurm, running = Cluster(folder, names, {}), {}

        def start(name: str, *command: str) -> None:
            running[name] = stack.enter_context(_daemon(folder / "log" / f"{name}.out", slurm.env, *command))
            slurm.pids[name] = running[name].pid

        def until(ready: Callable[[], bool], timeout: float = 10) -> None:
            end = time.monotonic() + timeout
            while not ready():
                ended = [name for name, process in running.items() if process.poll() is not None]
                if ended or time.monotonic() > end:
                    said = "\n".join((folder / "log" / f"{name}.out").read_text() for name in ended or running)
                    raise RuntimeError(f"the cluster did not start; {', '.join(ended) or 'nothing'} ended\n{said}")
                time.sleep(0.02)

        # --force: the folder may be closed to other users.
        start("munged", "munged", "--foreground", "--force", *(f"--{k}={folder / v}" for k, v in munge.items()))
        until((folder / "munge.socket").exists)
        start("slurmctld", "slurmctld", "-D")
        until(lambda: _listens(port))  # a slurmd that finds no slurmctld waits a second
        for name in names:
            start(f"slurmd.{name}", "slurmd", "-D", "-N", name)
        until(lambda: slurm.run("sinfo", "-hNp", "main", "-o", "%T").split() == ["idle"] * nodes)
        stack.callback(slurm._cancel)
        yield slurm


@contextmanager
def _daemon(log: Path, env: dict[str, str], *command: str) -> Iterator[subprocess.Popen]:
    """A process in the foreground, so that its pid is known, ended on leaving, or by the kernel if the tests are killed."""
    program = shutil.which(command[0], path=SEARCH)
    line = [shutil.which("setpriv", path=SEARCH), "--pdeathsig=TERM", program, *command[1:]]
    with (
        open(log, "wb") as out,
        # In its own session: Ctrl-C reaches only the tests, which end the daemons in order.
        subprocess.Popen(
            line, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((ADDRESS, 0))) for _ in range(n)]
        return [s.getsockname()[1] for s in sockets]


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((ADDRESS, port), timeout=1):
        return True
    return False
