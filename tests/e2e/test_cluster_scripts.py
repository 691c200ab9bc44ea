"""The scripts and the config of a cluster: they parse, and name nothing that does not exist."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest
import yaml
from fits import CHECKPOINTS, TWO_STEPS
from shard_factory import write_shard

SCRIPTS = ["convert.sbatch", "fit.sbatch", "single_node.sh"]

# Stands in for srun and torchrun: writes down the words it was given.
RECORDER = """#!/usr/bin/env python3
import json, os, pathlib, sys
name = pathlib.Path(sys.argv[0]).name
(pathlib.Path(os.environ["RECORDS"]) / f"{name}.json").write_text(json.dumps(sys.argv[1:]))
sys.exit(int(os.environ.get("STATUS", 0)))
"""
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_CPUS_PER_TASK": "3",
    "SLURM_ARRAY_TASK_ID": "4",
    "SLURM_ARRAY_TASK_COUNT": "32",
}


@pytest.fixture
def script(repository, tmp_path):
    """Run a script in an empty folder and give the words that reached srun or torchrun."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("srun", "torchrun", "scontrol", "scancel"):
        program = bin_folder / name
        program.write_text(RECORDER)
        program.chmod(0o755)

    def run(name: str, program: str, **settings: str) -> list[str]:
        environment = {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "VENV": "",
            **SLURM,
            "RECORDS": str(tmp_path),
            **settings,
        }
        path = repository / "experiments/cluster" / name
        done = subprocess.run(
            ["bash", str(path)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == int(settings.get("STATUS", 0)), done.stderr
        return json.loads((tmp_path / f"{program}.json").read_text())

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_sound_bash_and_says_what_its_settings_mean(repository, name) -> None:
    path = repository / "experiments/cluster" / name
    subprocess.run(["bash", "-n", str(path)], check=True)
    for line in path.read_text().splitlines():
        if line.startswith(': "${') and ":?" not in line:
            assert "#" in line or "CONFIGS" in line, line


def test_what_slurm_gave_reaches_lightning(script) -> None:
    words = script("fit.sbatch", "srun", RUN="a", DATA_ROOT="/d", WORDS="--trainer.max_epochs=3")
    start = words.index("lightning")
    assert words[:start] == ["--kill-on-bad-exit=1", "--cpus-per-task=3"]
    assert words[start:] == [
        "lightning",
        "fit",
        "--config=conf/base.yaml",
        "--config=conf/sa1b.yaml",
        "--config=conf/cluster.yaml",
        "--run_name=a",
        "--data_root=/d",
        "--trainer.num_nodes=2",
        "--trainer.devices=8",
        "--trainer.callbacks+=maskfeat.running.signals.SaveTogether",
        "--trainer.max_epochs=3",
    ]


def test_the_newest_checkpoint_is_gone_on_from(script, tmp_path) -> None:
    folder = tmp_path / "runs/cluster"
    (folder / "checkpoints").mkdir(parents=True)
    hpc, last = folder / "hpc_ckpt_1.ckpt", folder / "checkpoints/last.ckpt"
    for path, written in ((hpc, 200), (last, 100)):
        path.touch()
        os.utime(path, (written, written))
    # A failure, so that nothing is deleted; and one before any progress, so no requeue.
    words = script("fit.sbatch", "srun", STATUS="3")
    assert words[-1] == "--ckpt_path=runs/cluster/hpc_ckpt_1.ckpt"
    os.utime(last, (300, 300))
    assert script("fit.sbatch", "srun", STATUS="3")[-1] == (
        "--ckpt_path=runs/cluster/checkpoints/last.ckpt"
    )
    assert not (tmp_path / "scontrol.json").exists()
    # A run that came further is requeued, with the status of what went wrong.
    os.utime(last, (2e9 * 2, 2e9 * 2))
    assert script("fit.sbatch", "scontrol", STATUS="3") == ["requeue", "7"]
    # At the end nothing is left for the next run of this name to begin with.
    script("fit.sbatch", "srun")
    assert not hpc.exists()
    assert last.exists()


def test_one_node_needs_no_scheduler(script) -> None:
    words = script("single_node.sh", "torchrun", DEVICES="4", RUN="a")
    assert words[:5] == ["--standalone", "--nproc-per-node=4", "--max-restarts=3", "-m", "maskfeat"]
    assert words[5] == "fit"
    assert "--trainer.devices=4" in words
    assert "--ckpt_path=last" in words


def test_options_of_convert_exist(script) -> None:
    import inspect

    from maskfeat.data.commands import convert, parse_part

    words = script("convert.sbatch", "srun", SOURCES="/a/x.tar /a/y.tar", OUT="/b")
    start = words.index("maskfeat")
    assert words[start : start + 5] == ["maskfeat", "shards", "convert", "/a/x.tar", "/a/y.tar"]
    options = {word[2:].replace("-", "_") for word in words[start:] if word.startswith("--")}
    assert options <= set(inspect.signature(convert).parameters)
    assert parse_part(words[words.index("--part") + 1]) == (4, 32)


def test_options_of_torchrun_and_slurm_exist(repository) -> None:
    """Of torchrun by its parser; of Slurm by a list copied from the manual of sbatch 22.05."""
    from torch.distributed.run import get_args_parser

    folder = repository / "experiments/cluster"
    text = (folder / "single_node.sh").read_text().partition("exec torchrun")[2]
    known = {option.replace("_", "-") for option in get_args_parser()._option_string_actions}
    assert set(re.findall(r"(--[a-z-]+)", text)) <= known
    known = set(
        "--job-name --nodes --ntasks-per-node --gpus-per-node --cpus-per-task --time --signal "
        "--requeue --open-mode --output --array".split()
    )
    for name in ("fit.sbatch", "convert.sbatch"):
        found = re.findall(r"^#SBATCH (--[a-z-]+)", (folder / name).read_text(), re.MULTILINE)
        assert set(found) <= known
        assert "--requeue" in found


def test_cluster_trains_two_steps_on_converted_shards(command, tmp_path) -> None:
    for number in (0, 990):
        write_shard(tmp_path / f"sa1b/sa_{number:06d}.tar", 8, seed=number, size=(64, 96))
    command(
        *("fit", "--config=conf/base.yaml", "--config=conf/sa1b.yaml"),
        "--config=conf/cluster.yaml",
        *TWO_STEPS,
        *CHECKPOINTS,
        "--data.epoch_images=8",
        "--trainer.strategy=auto",
        "--trainer.accumulate_grad_batches=2",
        "--model.compile_backend=eager",  # inductor takes minutes on a CPU
    )
    config = yaml.safe_load((tmp_path / "runs/cluster/config.yaml").read_text())
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert config["trainer"]["num_nodes"] == 1
    assert config["data"]["init_args"]["examples"]["short_side"] is None
    assert config["model"]["net"]["init_args"]["width"] == 8


def test_every_config_is_run_by_a_test(repository) -> None:
    tests = "".join(path.read_text() for path in (repository / "tests").rglob("test_*.py"))
    for path in (repository / "conf").glob("*.yaml"):
        assert re.search(rf"conf/{re.escape(path.name)}", tests), path.name
