"""Which task a command line asks for, before there is a parser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maskfeat.tasks import named_task, task_and_data


def test_the_task_is_that_of_the_last_config_that_names_one(tmp_path: Path) -> None:
    plain, clicks = tmp_path / "plain.yaml", tmp_path / "clicks.yaml"
    plain.write_text("run_name: a\n")
    clicks.write_text("task: clicks\n")

    assert named_task(["fit"]) == "features"
    assert named_task(["fit", "--config", str(plain)]) == "features"
    assert named_task(["fit", "--config", str(clicks), f"--config={plain}"]) == "clicks"
    assert named_task(["fit", "--config", "clicks"]) == "clicks"  # it comes with the package
    assert named_task(["fit", f"--config={clicks}", "--task=features"]) == "features"
    assert named_task(["fit", "--task", "clicks"]) == "clicks"


@pytest.mark.parametrize("text", ["task: clicks\n\t- no", "- a list", "task: other"])
def test_what_the_parser_will_refuse_is_left_to_it(text: str, tmp_path: Path) -> None:
    config = tmp_path / "odd.yaml"
    config.write_text(text)

    assert named_task(["fit", f"--config={config}"]) == "features"
    assert named_task(["fit", "--task", "other"]) == "features"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")

    assert named_task(["fit", f"--config={tmp_path / 'pipe.yaml'}"]) == "features"


@pytest.mark.parametrize("name", ["features", "clicks"])
def test_every_task_has_its_classes(name: str) -> None:
    task, data = task_and_data(name)

    assert task.__name__.endswith("Task")
    assert data.rpartition(".")[2].endswith("DataModule")
