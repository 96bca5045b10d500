"""The parameters in the folder of a run; of a record, where they are what was written and lie in the place that they name."""

from pathlib import Path

from guidebook.config.errors import plain
from guidebook.config.params import Params, ParamsError, check, check_word, read
from guidebook.runs import checked
from guidebook.runs.manifest import MANIFEST, Corrupt, verify


def params_in(folder: Path, results: Path) -> tuple[Params, bool]:
    """The parameters in a folder, and whether it is one of the records in `results`. Raises ParamsError, Corrupt."""
    within = _place(folder, results)
    if (folder / MANIFEST).exists():
        verify(folder, f"`guidebook record` its run again, to {folder}")
    try:
        checked.check_text(folder / "params.yml")
    except ValueError:
        again = "put it back, or run again with the same parameters"
        raise Corrupt(f"{folder / 'params.yml'} is not what was written; {again}") from None
    params = check(read(folder / "params.yml"), str(folder / "params.yml"))
    if within:
        named = Path(params.experiment, params.profile)
        if within.parent.name == "variants":
            check_word(within.name, "variant")
            named /= f"variants/{within.name}"
        if within != named:
            raise ParamsError(plain(f"the record {within} calls itself {named}: it would take the place of that one"))
    return params, within is not None


def _place(folder: Path, results: Path) -> Path | None:
    """`mnist/paper`, or `mnist/paper/variants/x`: where among the records a folder lies; None where it is none of them.

    Raises ParamsError where it holds a link to what lies elsewhere, or what is neither a file nor a folder.
    """
    root, path = results, folder.absolute()
    if not path.is_relative_to(root):
        root, path = results.resolve(), folder.resolve()
    if not path.is_relative_to(root):
        return None
    within = path.relative_to(root)
    above = (root / part for part in (within, *within.parents) if part.name)
    for file in (*above, *path.rglob("*")):
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            odd = f"the record {within} holds a link or a device, {file.name}: put a file there, or delete it"
            raise ParamsError(plain(odd))
    return within
