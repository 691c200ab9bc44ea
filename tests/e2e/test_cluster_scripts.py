"""The scripts and the config of a cluster: they parse, and name nothing that does not exist."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from fits import CHECKPOINTS, TWO_STEPS
from shard_factory import write_shard

PATIENCE_S = 600
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
    known = {option.replace("_", "-") for option in get_args_parser()._option_string_actions}
    for name, start in (
        ("single_node.sh", "exec torchrun"),
        ("jobset.yaml", "command: [torchrun]"),
        ("skypilot.yaml", "torchrun "),
    ):
        text = (folder / name).read_text().partition(start)[2].partition("-m")[0]
        assert set(re.findall(r"(--[a-z-]+)", text)) <= known
    known = set(
        "--job-name --nodes --ntasks-per-node --gpus-per-node --cpus-per-task --time --signal "
        "--requeue --open-mode --output --array".split()
    )
    for name in ("fit.sbatch", "convert.sbatch"):
        found = re.findall(r"^#SBATCH (--[a-z-]+)", (folder / name).read_text(), re.MULTILINE)
        assert set(found) <= known
        assert "--requeue" in found


def test_the_job_set_is_one_that_kubernetes_takes(repository) -> None:
    import kubernetes_validate

    text = (repository / "experiments/cluster/jobset.yaml").read_text()
    job_set = yaml.safe_load(text)
    (replicated,) = job_set["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}}
    kubernetes_validate.validate({**job, **replicated["template"]}, "1.30", strict=True)

    spec = replicated["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    words = container["args"]
    nodes, gpus = str(spec["parallelism"]), str(container["resources"]["limits"]["nvidia.com/gpu"])
    assert spec["completions"] == spec["parallelism"]
    assert {f"--nnodes={nodes}", f"--trainer.num_nodes={nodes}"} < set(words)
    assert {f"--nproc-per-node={gpus}", f"--trainer.devices={gpus}"} < set(words)
    name = job_set["metadata"]["name"]
    assert f"--rdzv-endpoint={name}-{replicated['name']}-0-0.{name}:29500" in words


def test_the_task_of_skypilot_is_one_that_it_takes(repository) -> None:
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed")
    task = sky.Task.from_yaml(str(repository / "experiments/cluster/skypilot.yaml"))
    assert task.num_nodes == 4
    subprocess.run(["bash", "-n"], input=task.run, text=True, check=True)


@pytest.mark.parametrize("name", ["jobset.yaml", "skypilot.yaml"])
def test_the_fit_of_a_recipe_is_one_that_lightning_takes(repository, command, capsys, name) -> None:
    text = (repository / "experiments/cluster" / name).read_text()
    configs = re.findall(r"--config=\w+", text)
    options = set(re.findall(r"--(?:trainer\.\w+|run_name|data_root|ckpt_path)(?==)", text))
    assert len(configs) == 3
    assert len(options) == 5
    values = [f"{option}={'4' if 'trainer' in option else 'first'}" for option in options]
    with pytest.raises(SystemExit, match="0"):
        command("fit", *configs, *values, "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["num_nodes"] == 4


@pytest.mark.long
def test_after_a_rank_is_killed_torchrun_goes_on_from_the_last_checkpoint(
    repository, tmp_path
) -> None:
    (tmp_path / "data_shards").symlink_to(repository / "data_shards")
    saves = {"every_n_train_steps": 5, "save_last": True, "save_top_k": 0}
    saves["enable_version_counter"] = False
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saves}
    trainer = {"callbacks": [callback], "limit_val_batches": 0}
    (tmp_path / "saves.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    words = [word for word in TWO_STEPS if "--trainer.devices" not in word]
    settings = {"DEVICES": "2", "CONFIGS": "base saves.yaml", "RUN": "elastic", "VENV": ""}
    settings |= {"DATA_ROOT": "data_shards", "WORDS": " ".join([*words, "--data.epoch_images=400"])}
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        started = subprocess.Popen(
            ["bash", str(repository / "experiments/cluster/single_node.sh")],
            cwd=tmp_path,
            env={**os.environ, **settings},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        last = tmp_path / "runs/elastic/checkpoints/last.ckpt"
        give_up = time.monotonic() + PATIENCE_S
        while not last.exists():
            assert time.monotonic() < give_up, log.read_text()[-3000:]
            assert started.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
        os.kill(rank_of(started.pid, 1), signal.SIGKILL)
        assert started.wait(PATIENCE_S) == 0, log.read_text()[-3000:]
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
    assert re.search(r"Restored all states from the checkpoint at \S*last.ckpt", log.read_text())
    assert torch.load(last, weights_only=True)["global_step"] == 100


def rank_of(parent: int, rank: int) -> int:
    """The process of a rank that torchrun started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            of = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # gone
            continue
        if of == parent and f"RANK={rank}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"torchrun has no rank {rank}")


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
