"""What the other tests take for granted of SLURM."""

import ipaddress
import struct
import time
from pathlib import Path

import pytest


def test_an_array_runs_in_order_and_then_what_waits_for_it(slurm):
    order = slurm.folder / "order"
    array = slurm.submit(f"echo $SLURM_ARRAY_TASK_ID >> {order}", "--array=0-3%1")
    last = slurm.submit(f"echo last >> {order}", f"--dependency=afterok:{array}")
    assert slurm.state(last) == "PENDING"
    slurm.wait(last, "COMPLETED", 60)
    assert order.read_text().split() == ["0", "1", "2", "3", "last"]
    assert slurm.state(array) == slurm.state(f"{array}_2") == "COMPLETED"


def test_what_waits_for_a_failed_job_is_removed_if_it_says_so(slurm):
    failing = slurm.submit("sleep 1; exit 3")
    job = slurm.submit("true", f"--dependency=afterok:{failing}", "--kill-on-invalid-dep=yes")
    slurm.wait(failing, "FAILED")
    slurm.wait(job, "CANCELLED")
    assert slurm.show(failing, "ExitCode") == ["3:0"]


def test_one_task_of_an_array_is_requeued(slurm):
    script = "echo count ${SLURM_RESTART_COUNT:-none}; [ $SLURM_ARRAY_TASK_ID$SLURM_RESTART_COUNT != 1 ] || sleep 100"
    array = slurm.submit(script, "--array=0-1")
    slurm.wait(f"{array}_0", "COMPLETED")
    slurm.wait(f"{array}_1", "RUNNING")
    slurm.scontrol("requeue", f"{array}_1")
    slurm.wait(array, "COMPLETED")
    assert (slurm.restarts(f"{array}_0"), slurm.restarts(f"{array}_1")) == (0, 1)
    logs = [(slurm.folder / f"{array}_{task}.log").read_text() for task in (0, 1)]
    assert logs[0] == "count none\n"
    assert logs[1].startswith("count none\n")
    assert logs[1].endswith("count 1\n")


def test_a_job_of_a_node_that_goes_down_comes_back(slurm):
    job = slurm.submit("[ $SLURM_RESTART_COUNT ] || sleep 100")
    slurm.wait(job, "RUNNING")
    slurm.node(slurm.nodes[0], "down")
    try:
        slurm.wait(job, "PENDING")
    finally:
        slurm.node(slurm.nodes[0], "resume")
    slurm.wait(job, "COMPLETED")
    assert slurm.restarts(job) == 1


def test_an_urgent_job_preempts_one_that_leaves_on_its_signal(slurm):
    leave = "trap 'scontrol requeue $SLURM_JOB_ID; exit 0' USR1; while sleep 0.1; do :; done"
    script = f"if [ $SLURM_RESTART_COUNT ]; then exit 0; fi; {leave}"
    job = slurm.submit(script, "--exclusive", "--requeue", "--signal=B:USR1@10")
    slurm.wait(job, "RUNNING")
    urgent = slurm.submit("true", "--exclusive", "--partition=urgent")
    slurm.wait(urgent, "COMPLETED")
    slurm.wait(job, "COMPLETED")
    assert slurm.restarts(job) == 1


def test_a_job_gets_a_gpu_if_it_asks_for_one(slurm):
    for options, seen in (((), "none"), (("--gres=gpu:1",), "0")):
        job = slurm.submit("echo ${CUDA_VISIBLE_DEVICES:-none}", *options)
        slurm.wait(job, "COMPLETED")
        assert (slurm.folder / f"{job}.log").read_text().split() == [seen]


def test_waiting_in_vain_tells_what_slurm_says(slurm):
    job = slurm.submit("true", "--hold")
    with pytest.raises(TimeoutError, match=r"(?s)is PENDING, not COMPLETED.*Reason=JobHeldUser"):
        slurm.wait(job, "COMPLETED", timeout=0.2)
    slurm.run("scancel", job)
    with pytest.raises(RuntimeError, match="Invalid job id"):
        slurm.state("99999")


def _listening(pid: int) -> list:
    """The addresses a process listens on."""
    inodes = {link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    found = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                # In the machine's byte order
                words = [int(local[i : i + 8], 16) for i in range(0, local.index(":"), 8)]
                found.append(ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words)))
    return found


def test_nothing_listens_beyond_loopback(two_nodes):
    job = two_nodes.submit("srun bash -c 'touch task$SLURM_NODEID; sleep 100' & echo $! > srun; wait", "--nodes=2")
    end = time.monotonic() + 20
    while len(list(two_nodes.folder.glob("task*"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    pids = {**two_nodes.pids, "srun": int((two_nodes.folder / "srun").read_text())}
    addresses = {name: _listening(pid) for name, pid in pids.items()}
    two_nodes.run("scancel", job)
    assert not addresses.pop("munged")  # it has a socket file
    for name, found in addresses.items():
        assert found, name
        assert all(address.is_loopback for address in found), (name, found)


def test_each_of_two_nodes_runs_a_task(two_nodes):
    echo = "echo $SLURM_PROCID $SLURM_NODEID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    script = f"srun --ntasks=2 --ntasks-per-node=1 bash -c '{echo}'; scontrol show hostnames $SLURM_JOB_NODELIST"
    job = two_nodes.submit(script, "--nodes=2", "--ntasks-per-node=1", "--gres=gpu:1")
    two_nodes.wait(job, "COMPLETED")
    *tasks, first, second = (two_nodes.folder / f"{job}.log").read_text().splitlines()
    assert [first, second] == two_nodes.nodes
    assert sorted(tasks) == [f"0 0 {first} 0", f"1 1 {second} 0"]
