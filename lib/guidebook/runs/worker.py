"""One of several processes at work for a notebook: reads what to do from stdin, a line of JSON at a time.

The main one answers each line with one on stdout: `{}` or `{"preempted": …}`; whichever fails, `{"error": …}`. When stdin
ends, so does the process; in the middle of training it stops as it would for a signal, so nothing outlives the notebook.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

STAGES = {
    "train": "guidebook.training.loop:train",
    "draw": "guidebook.sampling.draw:sample_set",
    "measure": "guidebook.metrics.measure:measure",
}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    if "WORLD_SIZE" not in os.environ:  # srun says it in its own words
        for ours, theirs in (("RANK", "PROCID"), ("LOCAL_RANK", "LOCALID"), ("WORLD_SIZE", "NTASKS")):
            os.environ[ours] = os.environ[f"SLURM_{theirs}"]
    signal.signal(signal.SIGTERM, lambda *_: None)  # between two lines the end of stdin says it all
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()

    import torch.distributed as dist

    from guidebook.runtime.distributed import world

    main, answer = world().is_main_process, {}
    while not answer and (line := lines.get()) is not None:
        answer = _do(json.loads(line))
        if main or "error" in answer:
            print(json.dumps(answer), file=answers, flush=True)
    if not answer:
        dist.destroy_process_group()
    os._exit(1 if "error" in answer else 0)  # whoever failed cannot say goodbye to the others


def _do(job: dict) -> dict:
    from pkgutil import resolve_name

    from guidebook.runs.preemption import Preempted
    from guidebook.runs.run import opened

    try:
        resolve_name(STAGES[job["stage"]])(opened(Path(job["run"])), **job["arguments"])
    except Preempted as stop:
        return {"preempted": stop.what}
    except BaseException as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def _listen(lines: queue.Queue) -> None:
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)
    while True:  # what is being prepared may not listen yet
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


if __name__ == "__main__":
    main()
