"""Executing notebooks: papermill in kernels of their own, and the proof that each reached its last cell."""

import functools
import hashlib
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from pkgutil import resolve_name

from guidebook.config.params import Params, digest
from guidebook.config.paths import NOTEBOOKS
from guidebook.runs.executed import complete, missing, sign
from guidebook.runs.preemption import SAVED, SIGNALS, Preempted, drop_stale, request
from guidebook.runs.progress import FILE, told
from guidebook.runs.run import Run, open_run
from guidebook.runs.trainings import trained_again
from guidebook.runtime.malloc import SETTINGS

MOST = 4  # pages drawn at once, each in a kernel of its own
# Of PNGs, whose runs of equal bytes are all that is packed: 1.7 times as fast as by default; charts are as large, grids of images larger
FIGURES = {"bbox_inches": "tight", "pil_kwargs": {"compress_type": zlib.Z_RLE}}
REFUSALS = ("DataError", "ParamsError", "PretrainedMissing")  # errors that say in one line what to do
_kernels: set[int] = set()  # process ids of those that execute


class NotebookFailed(RuntimeError):
    """A cell failed, or the kernel died, or the last cell was never reached."""


def run_experiment(params: Params) -> tuple[Run, bool]:
    """Executes an experiment's notebook into its run folder: `(run, whether there was anything to do)`.

    Raises NotebookFailed, Preempted, and at once ParamsError where memory does not suffice, DataError where there are no data.
    """
    run = open_run(params)
    source, target = NOTEBOOKS / f"{params.experiment}.ipynb", run.path / "notebook.ipynb"

    def drawn() -> bool:
        others = [path / "metrics.json" for path in trained_again(run).values()]
        return execute(source, target, run.params.model_dump(mode="json"), depends=[f for f in others if f.exists()])

    if not run.trained:
        resolve_name("guidebook.training.estimate:check_memory")(params)
    if not run.trained and params.data.entry.stand_in:
        resolve_name("guidebook.data.described:check_files")(params.data)  # or downloaded, before minutes go by
    with _signals_as_file(run.path / "STOP"):
        done = drawn() and (drawn() or True)  # again where it trained others, which its first tables do not know
    if done and not run.metrics():
        target.unlink()
        raise NotebookFailed(f"{source.name} ended without a metric record: measure at least one set of samples")
    return run, done


def draw_pages(pages: Sequence[tuple], say: Callable[[str], None]) -> None:
    """`execute` with each of these arguments, unless it is up to date: one page per core at once. Raises NotebookFailed.

    Pages show what was computed before. When one fails, or the build is interrupted, the kernels of the others are ended.
    """
    stale = [page for page in pages if _outdated(*page)]
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), MOST)) as pool:
        drawn = {pool.submit(_draw, page): page[1].stem for page in stale}
        try:
            for done, page in enumerate(as_completed(drawn), 1):
                page.result()
                say(f"page {done} of {len(stale)} drawn: {drawn[page]}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(page.done() for page in drawn):  # one may just be starting its kernel
                for kernel in list(_kernels):
                    with suppress(ProcessLookupError):
                        os.kill(kernel, signal.SIGKILL)
                time.sleep(0.1)
            raise


def _draw(page: tuple) -> None:
    """One page, in a thread."""
    from jupyter_core.utils import ensure_event_loop

    try:
        execute(*page, threads=1)
    except NotebookFailed as failed:
        if page[0].stem == page[1].stem:  # the notebook's name says which page
            raise
        raise NotebookFailed(f"the page {page[1].stem}: {failed}") from None
    finally:
        ensure_event_loop().close()  # the thread's, which jupyter_client leaves open


def execute(
    source: Path,
    target: Path,
    parameters: dict,
    record: Path | None = None,  # a recorded run to redraw from
    depends: Sequence[Path] = (),  # files or folders the page is drawn from; a record is one by itself
    threads: int | None = None,  # of NumPy and PyTorch; None leaves it to the environment
) -> bool:
    """Executes `source` to `target`, unless that is up to date; True if it ran. Raises NotebookFailed and Preempted."""
    key = _outdated(source, target, parameters, record, depends)
    if key is None:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    aside, now = partial(target), told(target)
    now.unlink(missing_ok=True)  # of one that was killed
    try:
        environment = _kernel_environment(record, threads) | {FILE: os.path.abspath(now)}
        # Where something is computed, cells that are done can be read meanwhile
        engine = record and resolve_name("guidebook.book.engine:NAME")
        _papermill(source, aside, parameters, environment, engine)
    finally:
        now.unlink(missing_ok=True)
    if cells := missing(aside):
        raise NotebookFailed(f"{source.name} stopped before its end: cells {cells} were never completed; see {aside}")
    sign(aside, key + _beside(target))
    os.replace(aside, target)
    return True


def _outdated(
    source: Path, target: Path, parameters: dict, record: Path | None = None, depends: Sequence[Path] = ()
) -> str | None:
    """A digest of all that an executed notebook depends on; None where `target` has it and reached its last cell."""
    places = [record] if record else depends
    files = sorted(f for p in places for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file())
    contents = [[f.name, hashlib.sha256(f.read_bytes()).hexdigest()] for f in files]
    key = digest([source.read_text(), library_digest(), parameters, contents])
    return None if complete(target, key + _beside(target)) else key


def _beside(target: Path) -> str:
    """A digest of the metrics of the run and its variants, in whose folder an executed notebook lies: a copy lies beside others."""
    files = sorted(f for name in ("", "variants/*/") for f in target.parent.glob(f"{name}metrics.json"))
    return digest([hashlib.sha256(f.read_bytes()).hexdigest() for f in files])


@functools.cache
def library_digest() -> str:
    """A digest of the library's source: no page is older than the code that draws it."""
    files = sorted(f for f in Path(__file__).parents[1].rglob("*.*") if f.suffix in (".py", ".md", ".yml"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def _papermill(source: Path, aside: Path, parameters: dict, environment: dict, engine: str | None) -> None:
    import papermill
    from jupyter_client import AsyncKernelManager
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    class Kernel(AsyncKernelManager):
        async def start_kernel(self, **options) -> None:
            await super().start_kernel(env=environment, cwd=str(source.parent), **options)
            _kernels.add(self.provisioner.pid)
            # Linux weighs sessions against each other, and a kernel begins one: without this, `nice` would be void.
            with suppress(OSError):
                Path(f"/proc/{self.provisioner.pid}/autogroup").write_text(str(os.nice(0)))
            started.append(self.provisioner.pid)

    started: list[int] = []
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's own kernel
    for name in ("papermill", "asyncio"):  # their messages arrive as exceptions, or after those
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="guidebook-") as sockets:
            # Sockets instead of TCP ports: the kernel can be reached by nobody else. In a folder of its own, because
            # jupyter_client numbers them by what is there already, and two kernels started together take the same number.
            papermill.execute_notebook(
                source, aside, parameters, kernel_name="python3", progress_bar=False, engine_name=engine,
                kernel_manager_class=Kernel, config=Config({"Kernel": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
                # Errors of the notebook arrive as outputs. A third of the time that figures take is their compression.
                extra_arguments=["--IPKernelApp.log_level=CRITICAL", f"--InlineBackend.print_figure_kwargs={FIGURES}"],
            )  # fmt: skip
    except PapermillExecutionError as error:
        if error.ename == "Preempted":  # no failure: nothing is to be read there
            aside.unlink(missing_ok=True)
            raise Preempted(error.evalue.removeprefix("stopped ").removesuffix(SAVED)) from None
        text = re.sub(r"\x1b\[[0-9;]*m", "", f"{error.ename}: {error.evalue}")
        message = f"{source.name}, cell {error.exec_count}: {text}"
        if error.ename in REFUSALS:
            aside.unlink(missing_ok=True)
            raise NotebookFailed(message) from None
        raise NotebookFailed(f"{message}\n(the whole traceback is in {aside})") from None
    except OSError as error:
        raise OSError(f"{aside} was not written ({error})") from error
    except RuntimeError as error:  # the kernel died
        raise NotebookFailed(f"{source.name}: {error}\n(executed so far: {aside})") from None
    finally:
        _kernels.difference_update(started)


def _kernel_environment(record: Path | None, threads: int | None) -> dict[str, str]:
    """The environment of a kernel: malloc's settings, absolute paths (it works in another folder), the recorded run if any."""
    environment = {**SETTINGS, **os.environ}
    environment.pop("GUIDEBOOK_RECORD", None)
    for place in ("GUIDEBOOK_RUNS", "GUIDEBOOK_DATA", "GUIDEBOOK_ROOT"):
        if environment.get(place):
            environment[place] = os.path.abspath(environment[place])
    if threads:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    return environment | ({"GUIDEBOOK_RECORD": str(record.resolve())} if record else {})


@contextmanager
def _signals_as_file(stop: Path):
    """While it is open, a signal to stop becomes a file STOP: the kernel, which does the work, hears none that is sent to us.

    So does Ctrl-C. The second signal ends us at once.
    """
    before = {}

    def pass_on(number, frame):
        request(stop)
        signal.signal(number, before[number])
        if number == signal.SIGINT:
            print("\nstopping when what was done is saved; Ctrl-C again stops at once", file=sys.stderr)

    drop_stale(stop)
    if threading.current_thread() is threading.main_thread():
        ctrl_c = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
        before |= {number: signal.signal(number, pass_on) for number in (*SIGNALS, *ctrl_c)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.signal(number, handler) is not pass_on:
                stop.unlink(missing_ok=True)  # nothing listened any more: not meant for the next run


def partial(target: Path) -> Path:
    """The path of an executed notebook that is not complete yet."""
    return target.resolve().with_suffix(".partial.ipynb")
