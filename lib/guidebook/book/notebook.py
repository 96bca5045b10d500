"""Executing a notebook on a run: papermill, and the proof that it reached its last cell."""

import functools
import hashlib
import json
import logging
import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from guidebook.config.params import Params, digest
from guidebook.config.paths import NOTEBOOKS
from guidebook.runs.preemption import SIGNALS
from guidebook.runs.run import Run, open_run
from guidebook.runtime.malloc import keeping_memory


class NotebookFailed(RuntimeError):
    """A cell failed, or the kernel died, or the last cell was never reached."""

    def __init__(self, message: str, preempted: bool = False):
        super().__init__(message)
        self.preempted = preempted


def run_experiment(params: Params, watch: Callable[[Run, Path], None] | None = None) -> tuple[Run, bool]:
    """Executes an experiment's notebook into its run folder: `(run, whether there was anything to do)`.

    The executed notebook is called `notebook.partial.ipynb` until it is complete. `watch` is called about once a second.
    Raises NotebookFailed.
    """
    run = open_run(params)
    source, target = NOTEBOOKS / f"{params.experiment}.ipynb", run.path / "notebook.ipynb"
    with _passed_on(run):
        done = execute(
            source, target, run.params.model_dump(mode="json"), watch=watch and (lambda path: watch(run, path))
        )
    if done and not run.metrics():
        target.unlink()
        raise NotebookFailed(f"{source.name} ended without a metric record: measure at least one set of samples")
    return run, done


@contextmanager
def _passed_on(run: Run):
    """While it is open, a signal to stop becomes a file STOP: the kernel, which does the work, hears none that is sent to us.

    The second signal ends us at once.
    """
    file, before = run.path / "STOP", {}

    def pass_on(number, frame):
        file.touch()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        before |= {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.signal(number, handler) is not pass_on:
                file.unlink(missing_ok=True)  # asked where nothing listened any more: not meant for the next run


def execute(
    source: Path,
    target: Path,
    parameters: dict,
    record: Path | None = None,  # a recorded run to redraw from
    depends: Path | None = None,  # a file or folder the page is drawn from; a record is one by itself
    watch: Callable[[Path], None] | None = None,
) -> bool:
    """Executes `source` to `target`, unless that is up to date; True if it ran."""
    key = _wanted(source, parameters, record or depends)
    if _whole(target, key):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.resolve().with_suffix(".partial.ipynb")
    with keeping_memory(), _environment(record), _watching(watch, partial):
        _papermill(source, partial, parameters)
    if cells := missing(partial):
        raise NotebookFailed(f"{source.name} stopped before its end: cells {cells} were never completed; see {partial}")
    notebook = json.loads(partial.read_text())
    notebook["metadata"]["guidebook"] = {"key": key}
    partial.write_text(json.dumps(notebook, indent=1))
    os.replace(partial, target)
    return True


def up_to_date(
    source: Path, target: Path, parameters: dict, record: Path | None = None, depends: Path | None = None
) -> bool:
    """Whether `target` is complete and nothing it depends on has changed: what `execute` is not to do again."""
    return _whole(target, _wanted(source, parameters, record or depends))


def missing(path: Path) -> list[int]:
    """Numbers of the code cells that did not run to their end. papermill's status alone is not enough: a dead kernel leaves
    cells marked completed, and `sys.exit(0)` leaves later ones unrun with return code 0."""
    if not path.exists():
        return [0]
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    return [
        i
        for i, cell in enumerate(cells)
        if cell["metadata"].get("papermill", {}).get("status") != "completed"
        or not isinstance(cell["execution_count"], int)
    ]


def progress(path: Path) -> tuple[int, int]:
    """(code cells done, code cells in all) of a notebook being executed."""
    try:
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    except (OSError, ValueError):
        return 0, 0
    return sum(isinstance(c["execution_count"], int) for c in cells), len(cells)


@functools.cache
def library_digest() -> str:
    """A digest of the library's source: no page is older than the code that draws it."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def _papermill(source: Path, partial: Path, parameters: dict) -> None:
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it has to say arrives as an exception
    quiet = ["--IPKernelApp.log_level=CRITICAL"]  # errors of the notebook arrive as outputs, not here
    try:
        with tempfile.TemporaryDirectory(prefix="guidebook-") as sockets:
            # Sockets instead of TCP ports: the kernel can be reached by nobody else. In a folder of its own, because
            # jupyter_client numbers them by what is there already, and two kernels started together take the same number.
            config = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
            papermill.execute_notebook(
                source,
                partial,
                parameters,
                kernel_name="python3",
                progress_bar=False,
                cwd=source.parent,
                config=config,
                extra_arguments=quiet,
            )
    except PapermillExecutionError as error:
        text = re.sub(r"\x1b\[[0-9;]*m", "", f"{error.ename}: {error.evalue}")
        message = f"{source.name}, cell {error.exec_count}: {text}\n(the whole traceback is in {partial})"
        raise NotebookFailed(message, preempted=error.ename == "Preempted") from None
    except RuntimeError as error:  # the kernel died
        raise NotebookFailed(f"{source.name}: {error}\n(executed so far: {partial})") from None


@contextmanager
def _environment(record: Path | None):
    """What the kernel inherits: the recorded run, if any, and a preference for this environment's own kernel."""
    before = dict(os.environ)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ.pop("GUIDEBOOK_RECORD", None)
    for place in ("GUIDEBOOK_RUNS", "GUIDEBOOK_DATA", "GUIDEBOOK_ROOT"):  # the kernel works in another folder
        if place in os.environ:
            os.environ[place] = os.path.abspath(os.environ[place])
    if record:
        os.environ["GUIDEBOOK_RECORD"] = str(record.resolve())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _watching(watch: Callable[[Path], None] | None, partial: Path):
    stop = threading.Event()

    def loop():
        while not stop.wait(1):
            watch(partial)

    thread = threading.Thread(target=loop, daemon=True)
    if watch:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if watch:
            thread.join()


def _wanted(source: Path, parameters: dict, place: Path | None) -> str:
    """The key of an executed notebook: a digest of all it depends on."""
    return digest([source.read_text(), library_digest(), parameters, _stamps(place)])


def _whole(target: Path, key: str) -> bool:
    return _key(target) == key and not missing(target)


def _key(path: Path) -> str | None:
    try:
        return json.loads(path.read_text())["metadata"]["guidebook"]["key"]
    except (OSError, ValueError, KeyError):
        return None


def _stamps(place: Path | None) -> list:
    """Names and contents of a file, or of all files in a folder."""
    files = (
        [place] if place and place.is_file() else sorted(f for f in place.rglob("*") if f.is_file()) if place else []
    )
    return [[f.name, hashlib.sha256(f.read_bytes()).hexdigest()] for f in files]
