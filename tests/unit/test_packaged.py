"""Packaged configs and scenes are found by name, and files of the working folder come first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import maskfeat
from maskfeat.packaged import configs, resolve_config, resolve_data_root


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_bare_name_is_a_packaged_config_unless_such_a_file_exists(repository) -> None:
    assert resolve_config("base") == str(repository / "conf/base.yaml")
    Path("base").touch()
    assert resolve_config("base") == "base"


@pytest.mark.parametrize("value", ["nothing", "conf/base.yaml", "base.yaml", "{run_name: base}"])
def test_other_values_stay_as_they_are(value: str) -> None:
    assert resolve_config(value) == value


def test_the_packaged_scenes_are_read_where_there_is_no_such_folder(repository) -> None:
    assert resolve_data_root("data_shards") == str(repository / "data_shards")
    assert resolve_data_root("elsewhere") == "elsewhere"
    Path("data_shards").mkdir()
    assert resolve_data_root("data_shards") == "data_shards"


def test_both_spellings_of_the_option_take_a_name(capsys) -> None:
    from maskfeat.parser_errors import OneLineErrors

    parser = OneLineErrors()
    parser.add_argument("--config", action="append")
    given = parser.parse_args(["--config", "base", "--config=sa1b"]).config
    assert [Path(file).name for file in given] == ["base.yaml", "sa1b.yaml"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--config", "bose"])
    assert re.search(r"one that is packaged: [\w, ]*base, ", capsys.readouterr().err)


def test_configs_are_not_copied_to_a_file() -> None:
    Path("taken").touch()
    with pytest.raises(NotADirectoryError, match="cannot copy configs to 'taken': it is a file"):
        configs("taken")


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("pyproject.toml", r'^version = "(.+)"$'),
        ("CITATION.cff", r"^version: (.+)$"),
        ("CHANGELOG.md", r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$"),
    ],
)
def test_all_files_name_one_version(repository, file: str, pattern: str) -> None:
    found = re.findall(pattern, (repository / file).read_text(), flags=re.MULTILINE)
    assert found[0] == maskfeat.__version__
