"""The notebooks of examples/ run from top to bottom, and are kept without outputs."""

from __future__ import annotations

import json

import numpy as np
import pytest

NAMES = ("click", "label", "segment")


def code_cells(repository, name: str) -> list[dict]:
    cells = json.loads((repository / f"examples/{name}.ipynb").read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_these_are_all_notebooks_and_they_hold_no_outputs(repository) -> None:
    assert sorted(path.stem for path in (repository / "examples").glob("*.ipynb")) == list(NAMES)
    for name in NAMES:
        for cell in code_cells(repository, name):
            assert not cell["outputs"]
            assert cell["execution_count"] is None


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(repository, monkeypatch, tmp_path, name) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": name}
    for cell in code_cells(repository, name):
        exec("".join(cell["source"]), names)
    if name == "segment":
        counts = [len(np.unique(labels)) for labels in names["cuts"]]
        assert counts == sorted(counts, reverse=True)
        assert len(np.unique(names["by_features"])) == 60
    elif name == "click":
        assert 0 < names["mask"].mean() < 0.5
        assert names["boxed"].any()
    else:
        assert set(np.unique(names["proposal"].labels)) <= {0, 1}
        assert any((tmp_path / "exported").iterdir())
