"""Inputs in turn, their samples on all cores, shards in order: `maskfeat shards convert`."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from maskfeat.data.annotations.image import SampleError, within_memory
from maskfeat.data.convert.pool import HERE, Engine, OrderedPool, Progress, run_parts
from maskfeat.data.convert.sample import Recipe, Record, Shrunk
from maskfeat.data.convert.sources import Input, clean_keys
from maskfeat.data.convert.state import ConvertState
from maskfeat.data.shards.remote import UnreachableError
from maskfeat.data.shards.write import ShardWriter
from maskfeat.files import file_digest

_LOG = logging.getLogger("maskfeat")
_AT_ONCE = 4  # samples sent to a process
_EXPECTED = {"crowd", "too small", "void"}  # why sound annotations are left out


def convert_inputs(
    inputs: Sequence[Input],
    out: str | Path,
    recipe: Recipe,
    part: tuple[int, int] = (0, 1),
    num_workers: int | None = None,
    show_progress: bool = False,
    engine: Engine | None = None,
) -> ConvertState:
    """Make shards of inputs, or go on where an earlier run was stopped.

    Where a process dies, its part of the work is repeated, see `run_parts`.

    Args:
        inputs: From `find_inputs`.
        out: Folder of the shards.
        recipe: Makes their samples and decides their bytes; nothing else does.
        part: (i, n) does every n-th input from the i-th on, counted from 0.
        num_workers: Processes; 0 works in this one, None takes all cores. Of an engine those in
            each of its workers, where None is 0.
        show_progress: Whether to show a bar in the terminal.
        engine: Where to work on parts of the inputs; None works on one after the other here.

    Returns:
        What the folder holds now; `index.json` is there if all inputs are done.

    Raises:
        ValueError: If the folder was begun with other settings or inputs.
        RuntimeError: If processes died too often.
    """
    state = ConvertState(out)
    state.adopt(inputs, recipe)
    mine = inputs[part[0] :: part[1]]
    todo = [one for one in mine if not state.is_done(one.name, one.measure)]
    if todo and engine is None:
        work = partial(_convert_all, state.folder, recipe, num_workers, show_progress, False)
        run_parts(work, [todo], HERE)
    elif todo and engine is not None:
        work = partial(_convert_all, state.folder, recipe, num_workers or 0, False, True)
        shares = engine.shares(todo)
        with Progress(show_progress, 1) as progress:
            progress.start("parts", len(shares))
            run_parts(work, shares, engine, progress.advance)
    state.write_index()
    return state


def _convert_all(
    folder: Path,
    recipe: Recipe,
    num_workers: int | None,
    show_progress: bool,
    waits: bool,
    inputs: Sequence[Input],
) -> None:
    """Make the shards of some inputs in a folder that was made for them, see `convert_inputs`.

    What another process writes, as one of a run that was killed may do on, is waited for if
    `waits`, else left out.
    """
    state = ConvertState(folder)
    with OrderedPool(num_workers) as pool, Progress(show_progress, len(inputs)) as progress:
        for one in inputs:
            with state.lock(one.name, waits) as is_free:
                if not is_free:
                    _LOG.warning("%s is being written by another process", one.name)
                elif not state.is_done(one.name, one.measure):
                    _convert(one, state, recipe, pool, progress)


class _Task(NamedTuple):
    key: str
    number: int  # place in its input
    record: Record


def _convert(
    one: Input, state: ConvertState, recipe: Recipe, pool: OrderedPool, progress: Progress
) -> None:
    """Write the shards of one input that are not there yet."""
    notes = state.finished_shards(one.name, one.measure)
    state.clear_unfinished(one.name, len(notes))
    with contextlib.ExitStack() as stack:
        try:
            records = stack.enter_context(one.records(state.notes))
        except UnreachableError:
            raise
        except ValueError as error:  # a tar that is none, among a thousand
            _LOG.warning("skipped all of %s (bad tar): %s", one.source, error)
            num_shards = 0
            skipped = [{"key": "*", "reason": "bad tar", "detail": str(error)}]
        else:
            num_shards, skipped = _write_shards(one, records, notes, state, recipe, pool, progress)
        note = {"made_of": one.measure, "shards": num_shards, "skipped": skipped}
        state.note_done(one.name, note)


def _write_shards(
    one: Input,
    records: Sequence[Record],
    notes: Sequence[dict[str, Any]],
    state: ConvertState,
    recipe: Recipe,
    pool: OrderedPool,
    progress: Progress,
) -> tuple[int, list[dict[str, str]]]:
    """Write the shards of an input after those that are finished, which notes tell.

    Returns:
        The number of all its shards, and what was skipped after the last sample.
    """
    after = notes[-1]["last_key"] if notes else ""
    by_key = {record.key: record for record in records}
    names = clean_keys(by_key)
    ordered = sorted(by_key, key=lambda key: names[key])
    tasks = [_Task(names[key], number, by_key[key]) for number, key in enumerate(ordered, 1)]
    tally = _Tally(one)
    todo = [task for task in tasks if task.key > after]
    progress.start(one.name, len(tasks), len(tasks) - len(todo))
    with ShardWriter(
        state.folder,
        one.name,
        max_mb=recipe.shard_mb,
        first_number=len(notes),
        on_finish=lambda path: state.note_shard(tally.close(path)),
    ) as writer:
        chunks = [todo[start : start + _AT_ONCE] for start in range(0, len(todo), _AT_ONCE)]
        results = pool.map(partial(_make_all, recipe=recipe), chunks)
        for task, result in zip(todo, itertools.chain.from_iterable(results), strict=True):
            if isinstance(result, Shrunk):
                writer.write_sample(task.key, result.jpg, result.json)
                tally.add(task, result)
            else:
                tally.skip(task, result)
            progress.advance()
    return len(notes) + len(writer.paths), list(tally.skipped.values())


def _make_all(tasks: Sequence[_Task], recipe: Recipe) -> list[Shrunk | SampleError]:
    """Make samples; why one cannot be made is returned, not raised."""
    results: list[Shrunk | SampleError] = []
    for key, number, record in tasks:
        try:
            with within_memory("to convert it"):
                results.append(recipe.make(key, number, record))
        except SampleError as error:
            results.append(error)
    return results


class _Tally:
    """What is written into the current shard of an input, and what was skipped on the way."""

    def __init__(self, one: Input) -> None:
        self._input = one
        self._reported: set[str] = set()
        self.skipped: dict[str, dict[str, str]] = {}  # by new key, in order
        self._num_masks: dict[str, int] = {}  # by new key, in order
        self._left_out: Counter[str] = Counter()

    def add(self, task: _Task, made: Shrunk) -> None:
        """Count a sample that has been written."""
        self._num_masks[task.key] = made.num_masks
        self._left_out.update(made.left_out)
        for reason in sorted(made.left_out.keys() - _EXPECTED - self._reported):
            self._reported.add(reason)
            _LOG.warning(
                "sample '%s' of %s is the first with annotations that are left out (%s)",
                *(task.key, self._input.source, reason),
            )

    def skip(self, task: _Task, error: SampleError) -> None:
        """Count a sample that cannot be converted."""
        key, reason, detail = task.record.key, error.reason, error.detail
        source = self._input.source
        _LOG.warning("skipped sample '%s' of %s (%s): %s", key, source, reason, detail)
        self.skipped[task.key] = {"key": key, "reason": reason, "detail": detail}

    def close(self, path: Path) -> dict[str, Any]:
        """The note on a finished shard; then counting starts anew."""
        keys = list(self._num_masks)
        # Those behind the last sample are met again if a later run goes on from there.
        skipped = [key for key in self.skipped if key < keys[-1]]
        note = {
            "shard": path.name,
            "made_of": self._input.measure,
            "samples": len(keys),
            "masks": sum(self._num_masks.values()),
            "bytes": path.stat().st_size,
            "sha256": file_digest(path, hashlib.sha256()),
            "first_key": keys[0],
            "last_key": keys[-1],
            "left_out": dict(sorted(self._left_out.items())),
            "skipped": [self.skipped.pop(key) for key in skipped],
        }
        self._num_masks, self._left_out = {}, Counter()
        return note
