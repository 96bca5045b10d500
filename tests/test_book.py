"""The contents of the book: what a build fills in, what it may leave out, and what it refuses to lose."""

import pytest
import yaml

from guidebook.book import build
from guidebook.book.notebook import NotebookFailed
from guidebook.config.paths import BOOK


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a book of one chapter, `notes`, whose contents name others besides."""
    monkeypatch.setattr(build, "BOOK", tmp_path)
    monkeypatch.setattr(build, "SOURCE", tmp_path)
    monkeypatch.setattr(build, "_experiments", lambda: pytest.fail("begun before the contents were checked"))
    for name in ("intro", "notes"):
        (tmp_path / f"{name}.md").write_text("# A page\n")

    def write(*names):
        part = {"caption": "Read", "chapters": [{"file": name} for name in ("notes", *names)]}
        toc = {"format": "jb-book", "root": "intro", "parts": [{"caption": "Experiments", "chapters": []}, part]}
        (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))

    return write


@pytest.mark.parametrize("name", ["ntes", "notes.md", "experiments/mnist", "/notes", "*", "perfomance", "a\nb"])
def test_a_chapter_that_there_is_not_stops_the_build_at_once_in_one_line(written, name):
    written(name)
    with pytest.raises(NotebookFailed, match="there are: intro, notes, explorer") as caught:
        build.build()
    assert len(str(caught.value).splitlines()) == 1
    assert repr(name) in str(caught.value)


def test_a_mistyped_chapter_is_refused_with_the_nearest(written):
    written("ntes")
    with pytest.raises(NotebookFailed, match=r"'ntes' \(nearest: notes\)"):
        build.build()


def test_a_chapter_in_a_folder_and_a_notebook_are_chapters(written, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "notes.md").touch()
    (tmp_path / "try.ipynb").touch()
    written("more/notes", "try")
    assert len(build._contents()["parts"][1]["chapters"]) == 3


def test_what_has_nothing_to_show_yet_is_left_out_and_nothing_else(written, tmp_path):
    written(*build.OPTIONAL)
    (tmp_path / "performance.ipynb").touch()
    build._toc(build._contents(), [])
    (part,) = yaml.safe_load((tmp_path / "_toc.yml").read_text())["parts"]  # no experiments yet
    assert [c["file"] for c in part["chapters"]] == ["notes", "performance"]


def test_the_contents_of_the_study_are_complete():
    files = [c["file"] for part in build._contents()["parts"] for c in part["chapters"]]
    assert {f for f in files if not (BOOK / f"{f}.md").exists()} == {*build.OPTIONAL}
