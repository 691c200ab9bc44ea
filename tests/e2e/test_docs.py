"""The site is built without a warning, and its pages name what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import maskfeat


def test_the_site_is_built_and_warnings_are_errors(repository, tmp_path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}/site"],
        cwd=repository,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "WARNING" not in built.stderr
    reference = (tmp_path / "site/reference/index.html").read_text()
    for name in set(maskfeat.__all__) - {"__version__"}:
        assert re.search(rf'id="maskfeat\.[\w.]+\.{name}"', reference), name


def test_readme_and_pages_link_to_files_that_exist(repository) -> None:
    for page in (repository / "README.md", *(repository / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_modules_that_pages_name_exist(repository) -> None:
    modules = [path.as_posix() for path in (repository / "maskfeat").rglob("*.py")]
    for page in (repository / "README.md", *(repository / "docs").rglob("*.md")):
        for name in re.findall(r"`((?:\w+/)*\w+\.py)`", page.read_text()):
            if name == "my_package.py":  # the reader's own
                continue
            is_there = any(path.endswith(f"/{name}") for path in modules)
            assert is_there or (repository / name).exists(), f"{page}: {name}"
