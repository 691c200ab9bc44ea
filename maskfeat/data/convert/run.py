"""`maskfeat shards convert`: inputs in turn, their samples on all cores, shards in order."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from maskfeat.data.annotations.image import SampleError, within_memory
from maskfeat.data.convert.pool import OrderedPool
from maskfeat.data.convert.progress import Progress
from maskfeat.data.convert.sample import Record, Settings, shrink
from maskfeat.data.convert.sources import Input, clean_keys
from maskfeat.data.convert.state import ConvertState
from maskfeat.data.shards.write import ShardWriter
from maskfeat.files import file_digest

_LOG = logging.getLogger("maskfeat")
_AT_ONCE = 4  # samples sent to a process
_EXPECTED = {"crowd", "too small", "void"}  # why sound annotations are left out


class _Task(NamedTuple):
    key: str
    number: int  # place in its input
    record: Record


class _Done(NamedTuple):
    key: str
    jpg: bytes
    json: bytes
    num_masks: int
    left_out: dict[str, int]


class _Skipped(NamedTuple):
    key: str
    source_key: str
    reason: str
    detail: str


class _Tally:
    """What is written into the current shard, and what was skipped on the way."""

    def __init__(self, made_of: str) -> None:
        self.made_of = made_of
        self.reported: set[str] = set()
        self.skipped: list[_Skipped] = []
        self._start()

    def _start(self) -> None:
        self.first_key = self.last_key = ""
        self.num_samples = self.num_masks = 0
        self.left_out: Counter[str] = Counter()

    def add(self, sample: _Done) -> None:
        """Count a sample that has been written."""
        self.first_key = self.first_key or sample.key
        self.last_key = sample.key
        self.num_samples += 1
        self.num_masks += sample.num_masks
        self.left_out.update(sample.left_out)

    def close(self, path: Path) -> dict[str, Any]:
        """The note on a finished shard; then counting starts anew."""
        note = {
            "shard": path.name,
            "made_of": self.made_of,
            "samples": self.num_samples,
            "masks": self.num_masks,
            "bytes": path.stat().st_size,
            "sha256": file_digest(path, hashlib.sha256()),
            "first_key": self.first_key,
            "last_key": self.last_key,
            "left_out": dict(sorted(self.left_out.items())),
            # Those behind the last sample are met again if a later run goes on from there.
            "skipped": [_as_json(one) for one in self.skipped if one.key < self.last_key],
        }
        self.skipped = [one for one in self.skipped if one.key > self.last_key]
        self._start()
        return note


def convert_inputs(
    inputs: Sequence[Input],
    out: str | Path,
    settings: Settings,
    part: tuple[int, int] = (0, 1),
    num_workers: int | None = None,
    show_progress: bool = False,
) -> ConvertState:
    """Convert inputs to shards, or go on where an earlier run was stopped.

    Args:
        inputs: From `maskfeat.data.convert.sources.find_inputs`.
        out: Folder of the shards.
        settings: What decides their bytes; nothing else does.
        part: (i, n) does every n-th input from the i-th on, counted from 0.
        num_workers: Processes; 0 works in this one, None takes all cores.
        show_progress: Whether to show a bar in the terminal.

    Returns:
        What the folder holds now; `index.json` is there if all inputs are done.

    Raises:
        ValueError: If the folder was begun with other settings or inputs.
    """
    state = ConvertState(out)
    state.adopt(inputs, settings)
    mine = inputs[part[0] :: part[1]]
    todo = [one for one in mine if not state.is_done(one.name, one.measure)]
    if todo:
        with OrderedPool(num_workers) as pool, Progress(show_progress, len(todo)) as progress:
            for one in todo:
                with state.lock(one.name) as is_free:
                    if is_free:
                        _convert(one, state, settings, pool, progress)
                    else:
                        _LOG.warning("%s is being written by another process", one.name)
    state.write_index()
    return state


def _convert(
    one: Input, state: ConvertState, settings: Settings, pool: OrderedPool, progress: Progress
) -> None:
    """Write the shards of one input that are not there yet."""
    notes = state.finished_shards(one.name, one.measure)
    state.clear_unfinished(one.name, len(notes))
    after = notes[-1]["last_key"] if notes else ""
    try:
        tasks = _tasks(one.list_records())
    except ValueError as error:  # a tar that is none, among a thousand
        _LOG.warning("skipped all of %s (bad tar): %s", one.source, error)
        skipped = [_as_json(_Skipped("*", "*", "bad tar", str(error)))]
        done = {"made_of": one.measure, "shards": 0, "skipped": skipped}
        state.note_done(one.name, done)
        return
    tally = _Tally(one.measure)
    todo = [task for task in tasks if task.key > after]
    writer = ShardWriter(
        state.folder,
        one.name,
        max_mb=settings.shard_mb,
        first_number=len(notes),
        on_finish=lambda path: state.note_shard(tally.close(path)),
    )
    progress.start(one.name, len(tasks), len(tasks) - len(todo))
    with writer:
        chunks = (todo[start : start + _AT_ONCE] for start in range(0, len(todo), _AT_ONCE))
        for batch in pool.map(partial(_shrink_all, settings=settings), chunks):
            for result in batch:
                _take(result, one, writer, tally)
                progress.advance()
    num_shards = len(notes) + len(writer.paths)
    skipped = [_as_json(skipped) for skipped in tally.skipped]
    state.note_done(one.name, {"made_of": one.measure, "shards": num_shards, "skipped": skipped})


def _take(result: _Done | _Skipped, one: Input, writer: ShardWriter, tally: _Tally) -> None:
    if isinstance(result, _Done):
        writer.write_sample(result.key, result.jpg, result.json)
        tally.add(result)
        for reason in sorted(result.left_out.keys() - _EXPECTED - tally.reported):
            tally.reported.add(reason)
            _LOG.warning(
                "sample '%s' of %s is the first with annotations that are left out (%s)",
                *(result.key, one.source, reason),
            )
        return
    key, reason, detail = result.source_key, result.reason, result.detail
    _LOG.warning("skipped sample '%s' of %s (%s): %s", key, one.source, reason, detail)
    tally.skipped.append(result)


def _tasks(records: Sequence[Record]) -> list[_Task]:
    """The samples in the order of their new names."""
    by_key = {record.key: record for record in records}
    names = clean_keys(by_key)
    ordered = sorted(by_key, key=lambda key: names[key])
    return [_Task(names[key], number, by_key[key]) for number, key in enumerate(ordered, 1)]


def _shrink_all(tasks: Sequence[_Task], settings: Settings) -> list[_Done | _Skipped]:
    return [_shrink_one(task, settings) for task in tasks]


def _shrink_one(task: _Task, settings: Settings) -> _Done | _Skipped:
    try:
        with within_memory("to convert it"):
            made = shrink(task.key, task.number, task.record.read(settings), settings)
    except SampleError as error:
        return _Skipped(task.key, task.record.key, error.reason, error.detail)
    return _Done(task.key, *made)


def _as_json(skipped: _Skipped) -> dict[str, str]:
    return {"key": skipped.source_key, "reason": skipped.reason, "detail": skipped.detail}
