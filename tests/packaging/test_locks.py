"""What `make` installs is what the lock files name: all that pyproject.toml asks for, by hash, from any index."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = ("all", "test", "bench")


def wanted(extra):
    """Return the requirements of an extra and of the extras that it names."""
    found = []
    for text in PROJECT["project"]["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["project"]["name"]:
            found.extend(one for name in requirement.extras for one in wanted(name))
        else:
            found.append(requirement)
    return found


def locked(extra):
    """Return (requirement, number of hashes) of every package that a lock file names."""
    text = (ROOT / "locks" / f"{extra}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(line.split("--hash")[0].strip()), line.count("--hash=sha256:")) for line in lines]


def pins(extra, python):
    """Return the version of every package that is installed on this Python under Linux."""
    here = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin, _ in locked(extra)
        if pin.marker is None or pin.marker.evaluate(here)
    }


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", EXTRAS)
def test_a_lock_holds_a_version_of_all_that_pyproject_asks_for(extra, python):
    there = pins(extra, python)
    base = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
    build = [
        Requirement(text) for text in PROJECT["build-system"]["requires"]
    ]  # the tree is built without isolation
    for requirement in [*base, *wanted(extra), *build]:
        version = there.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in locks/{extra}.txt: make lock"
        assert requirement.specifier.contains(version), f"{requirement}, and {version} is locked: make lock"


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_lock_names_one_version_with_hashes_and_no_host(extra):
    for pin, hashes in locked(extra):
        assert re.fullmatch(r"==[^,*]+", str(pin.specifier)), pin
        assert hashes, pin
    text = (ROOT / "locks" / f"{extra}.txt").read_text()
    assert "://" not in text
    assert not re.search(r"^-|--(index|find|trusted)", text, re.MULTILINE)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", ["all", "test"])
def test_a_smaller_lock_is_part_of_the_whole_one(extra, python):
    assert pins(extra, python).items() <= pins("bench", python).items()


def test_the_bootstrap_can_be_parsed_by_a_python_that_is_too_old_and_imports_the_standard_library_alone():
    tree = ast.parse((ROOT / "scripts" / "bootstrap.py").read_text(), feature_version=(3, 6))
    imports = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imports <= {
        "argparse", "ensurepip", "fcntl", "hashlib", "json", "os", "re", "shutil", "subprocess", "sys", "typing",
        "venv",
    }  # fmt: skip


def test_every_python_that_is_claimed_has_its_versions_checked_here():
    minors = [
        text.rpartition(" ")[2] for text in PROJECT["project"]["classifiers"] if ":: Python :: 3." in text
    ]
    assert tuple(minors) == PYTHONS
