"""What stops a run is one sentence, where no traceback helps."""

from __future__ import annotations

import pytest
import torch
from fits import CHECKPOINTS, TWO_STEPS

import maskfeat.batch as own_module
from maskfeat.running.failures import sentence_of_run

WORKER = """Caught RuntimeError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "/site-packages/torch/utils/data/_utils/worker.py", line 309, in _worker_loop
    data = fetcher.fetch(index)
  File "{file}", line 177, in collate
    raise RuntimeError(text)
RuntimeError: {text}
"""


def test_a_loss_that_is_no_number_is_one_sentence(command) -> None:
    words = ["fit", "--config=conf/base.yaml", *TWO_STEPS, *CHECKPOINTS]
    words += ["--model.learning_rate=1e30", "--model.warmup_steps=0", "--data.epoch_images=12"]
    words += ["--trainer.gradient_clip_val=null"]
    with pytest.raises(
        SystemExit, match=r"^error: the loss became (nan|inf) at step \d; lower"
    ) as stop:
        command(*words)
    assert "\n" not in str(stop.value.code)


def test_own_errors_of_workers_are_sentences_and_foreign_ones_keep_their_traceback() -> None:
    own = RuntimeError(WORKER.format(file=own_module.__file__, text="3 of 4: samples are bad"))
    assert sentence_of_run(own) == "3 of 4: samples are bad"
    assert sentence_of_run(RuntimeError(WORKER.format(file="/x/y.py", text="no"))) is None
    with pytest.raises(RuntimeError) as foreign:
        torch.zeros(2) @ torch.zeros(3)
    assert sentence_of_run(foreign.value) is None
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has")
    sentence = "CUDA out of memory; lower data.batch_size or data.examples.crop_size"
    assert sentence_of_run(full) == sentence


@pytest.mark.parametrize(
    ("name", "precision"), [("fit", "bf16-true"), ("validate", "64-true"), ("predict", "16-true")]
)
def test_weights_of_other_than_32_bits_are_refused_when_they_are_set(
    command, tmp_path, name, precision
) -> None:
    (tmp_path / "runs/base").mkdir(parents=True)
    (tmp_path / "runs/base/config.yaml").touch()
    message = rf"^error: trainer.precision must be 32-true, .* got {precision}: [^\n]*$"
    with pytest.raises(SystemExit, match=message):
        command(name, "--config=conf/base.yaml", *TWO_STEPS, f"--trainer.precision={precision}")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["base"]


def test_weights_are_averaged_from_the_command_line(command, tmp_path) -> None:
    """A device among the defaults of a callback is written and read as one."""
    words = ["fit", "--config=conf/base.yaml", *TWO_STEPS, *CHECKPOINTS]
    callback = "lightning.pytorch.callbacks.StochasticWeightAveraging"
    command(
        *words,
        f"--trainer.callbacks+={callback}",
        "--trainer.callbacks.swa_lrs=0.01",
        "--trainer.limit_val_batches=0",
    )
    config = (tmp_path / "runs/base/config.yaml").read_text()
    assert "device: cpu" in config
    assert "Unable to serialize" not in config
