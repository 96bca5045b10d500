"""One set of versions: what pyproject.toml asks for, requirements.lock pins and environment.yml installs."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text().splitlines()
ASKED = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


def pins(python: str) -> dict[str, list[str]]:
    """Name → the versions the lock gives it under this Python, on the platform at hand."""
    environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.9"}
    found: dict[str, list[str]] = {}
    for requirement in map(Requirement, LOCK):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            versions = [spec.version for spec in requirement.specifier]
            found.setdefault(canonicalize_name(requirement.name), []).extend(versions)
    return found


def test_lock_lines_are_one_exact_version_each():
    odd = [line for line in LOCK if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*( ; [^/@]+)?", line)]
    assert not odd, "requirements.lock: only `name==version` or `name==version ; marker`; run `make lock`"


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_pins_each_package_once(python):
    assert {name: versions for name, versions in pins(python).items() if len(versions) != 1} == {}


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_satisfies_pyproject(python):
    pinned = pins(python)
    wrong = {}
    for requirement in map(Requirement, ASKED):
        versions = pinned.get(canonicalize_name(requirement.name), [])
        if len(versions) != 1 or versions[0] not in requirement.specifier:
            wrong[str(requirement)] = versions
    assert not wrong, "pyproject.toml asks for what requirements.lock does not pin; run `make lock`"


def test_conda_environment_installs_the_lock():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}, "environment.yml: pins belong in requirements.lock alone"
    assert [name.split("=")[0] for name in conda] == ["python", "pip"], (
        "environment.yml: only Python and pip from conda"
    )
    python = conda[0].split("=")[1]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{python}.0")


def test_version_is_the_same_everywhere():
    import guidebook

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert PROJECT["version"] == guidebook.__version__ == cited
