"""`maskfeat shards verify`: is all that the index promises there, and can it be read."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.annotations.painting import boxes_xywh
from maskfeat.data.annotations.sample import AnnotatedImage, read_sample
from maskfeat.data.convert.pool import Engine, OrderedPool, Progress, run_parts
from maskfeat.data.convert.sources import find_inputs
from maskfeat.data.convert.state import INDEX_NAME, PLAN_VERSION, ConvertState, read_json
from maskfeat.data.shards.index import scan_shard
from maskfeat.data.shards.index_file import ShardIndex
from maskfeat.data.shards.indexed import read_pair
from maskfeat.files import file_digest

Json = dict[str, Any]
_TOLD = {"bytes", "sha256", "samples", "masks"}  # of each shard, by the index
_Job = tuple[Path, Json | None, Limits]  # a tar, what the index says of it, limits
_LOG = logging.getLogger("maskfeat")


class Problem(NamedTuple):
    """Something that is wrong with a shard."""

    shard: str
    what: str
    num: int = 1  # how often
    example: str = ""


class ShardReport(NamedTuple):
    """What was found in one shard."""

    num_samples: int
    num_masks: int
    problems: list[Problem]


def verify_folder(
    folder: str | Path,
    num_workers: int | None = None,
    show_progress: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    part: tuple[int, int] = (0, 1),
    engine: Engine | None = None,
) -> tuple[ShardReport, int]:
    """Check a folder of converted shards: checksums, every sample, every mask.

    Shards whose source has changed since are a problem too. Where that cannot be checked, as the
    sources are not within reach, the log says so.

    Args:
        folder: What `maskfeat shards convert` or `segment` wrote.
        num_workers: Processes; 0 works in this one, None takes all cores. Of an engine those in
            each of its workers, where None is 0.
        show_progress: Whether to show a bar in the terminal.
        limits: What a sample may ask for.
        part: (i, n) reads every n-th shard from the i-th on, counted from 0. The folder as a whole
            (missing shards, changed sources) is the part 0's to check.
        engine: Where to work on parts of the shards; None reads one after the other here.

    Returns:
        All samples, masks and problems together; and the number of shards read.

    Raises:
        FileNotFoundError: If there is no such folder, or neither index nor shard in it.
    """
    folder = Path(folder)
    tars = {path.name: path for path in sorted(folder.glob("*.tar"))}
    index_path = folder / INDEX_NAME
    if not tars and not index_path.is_file():
        raise FileNotFoundError(f"'{folder}' holds neither shards nor an {INDEX_NAME}")
    promised: dict[str, Json] | None = None  # the notes of the index, if it can be read
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        notes = {str(note["shard"]): note for note in read_json(index_path)["shards"]}
        if all(_TOLD <= note.keys() for note in notes.values()):
            promised = notes
    problems, notes = list[Problem](), promised or {}
    if part[0] == 0:
        problems = _problems_of_folder(folder, tars.keys(), promised)
    jobs = [(path, notes.get(name), limits) for name, path in tars.items()][part[0] :: part[1]]
    if engine is None:
        found = _verify_all(num_workers, show_progress, jobs)
    else:
        shares = engine.shares(range(len(jobs)))
        with Progress(show_progress, 1) as progress:
            progress.start("parts", len(shares))
            work = partial(_verify_all, num_workers or 0, False)
            parts = [[jobs[number] for number in share] for share in shares]
            reports = run_parts(work, parts, engine, progress.advance)
        dealt = zip(itertools.chain(*shares), itertools.chain(*reports), strict=True)
        found = [report for _, report in sorted(dealt, key=lambda pair: pair[0])]
    problems += [problem for report in found for problem in report.problems]
    num_samples = sum(report.num_samples for report in found)
    num_masks = sum(report.num_masks for report in found)
    return ShardReport(num_samples, num_masks, problems), len(jobs)


def _verify_all(
    num_workers: int | None, show_progress: bool, jobs: Sequence[_Job]
) -> list[ShardReport]:
    with OrderedPool(num_workers) as pool, Progress(show_progress, 1) as progress:
        progress.start("shards", len(jobs))
        reports = []
        for report in pool.map(_verify_job, jobs):
            reports.append(report)
            progress.advance()
    return reports


def _problems_of_folder(
    folder: Path, names: Set[str], promised: dict[str, Json] | None
) -> list[Problem]:
    """What is wrong with a folder of tars of these names, but for what is in them.

    `promised` are the notes of its index on each; None if there is none that can be read.
    """
    problems = _unfinished(folder, promised is not None) + _stale(folder)
    if promised is not None:
        known = promised.keys()
        problems += [Problem(name, "the shard is missing") for name in sorted(known - names)]
        what = f"the shard is not in {INDEX_NAME}"
        problems += [Problem(name, what) for name in sorted(names - known)]
    return problems


def _unfinished(folder: Path, has_index: bool) -> list[Problem]:
    """What is not done, or why there is no index that can be read."""
    state = ConvertState(folder)
    plan = state.read_plan()
    if plan is None:
        what = "it is missing or broken, and so are the notes on how it was made"
        return [] if has_index else [Problem(INDEX_NAME, what)]
    names = state.undone() if plan.get("version") == PLAN_VERSION else []
    if names:
        what = f"of {len(plan['inputs'])} inputs some are not done; {_again(plan)}"
        return [Problem(INDEX_NAME, what, len(names), names[0])]
    what = f"it is missing or broken; {_again(plan)}"
    return [] if has_index else [Problem(INDEX_NAME, what)]


def _again(plan: Json) -> str:
    return f"run shards {plan['settings'].get('command', 'convert')} again"


def _stale(folder: Path) -> list[Problem]:
    """The inputs whose sources have changed, which are measured again."""
    unknown = "whether shards are out of date is not known: %s"
    plan = ConvertState(folder).read_plan()
    if plan is None or plan.get("version") != PLAN_VERSION:
        _LOG.warning(unknown, "the folder does not tell what its shards were made of")
        return []
    by_source: dict[tuple[str, str, str | None], list[str]] = defaultdict(list)
    for name, one in plan["inputs"].items():
        by_source[one["place"], one["kind"], one["images_dir"]].append(name)
    changed: list[tuple[str, str]] = []
    for (place, kind, images_dir), names in by_source.items():
        try:
            now = {one.name: one.measure for one in find_inputs([place], kind, images_dir)}
        except OSError as error:
            _LOG.warning(unknown, f"a source is not within reach: {error}")
            continue
        except ValueError:  # it cannot be listed any more
            now = {}
        then = {name: plan["inputs"][name]["measure"] for name in names}
        changed += [(n, place) for n in sorted(now | then) if now.get(n) != then.get(n)]
    what = f"its source has changed since; {_again(plan)}"
    return [Problem(name, what, 1, place) for name, place in changed]


def _verify_job(job: _Job) -> ShardReport:
    return verify_shard(*job)


def verify_shard(
    path: Path,
    note: Json | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> ShardReport:
    """Check one shard.

    Args:
        path: The tar.
        note: What the index says of it, if there is an index.
        limits: What a sample may ask for.

    Returns:
        What was found; samples are those that can be read.
    """
    problems: list[Problem] = []
    if note is not None and path.stat().st_size != note["bytes"]:
        what = f"it has {path.stat().st_size} bytes, the index says {note['bytes']}"
        problems.append(Problem(path.name, what))
    elif note is not None and file_digest(path, hashlib.sha256()) != note["sha256"]:
        problems.append(Problem(path.name, "its checksum is not that of the index"))
    try:
        index = scan_shard(path)
    except ValueError as error:
        return ShardReport(0, 0, [*problems, Problem(path.name, str(error))])
    problems += _layout_problems(index, path.name)
    wrong: Counter[str] = Counter()
    examples: dict[str, str] = {}
    num_samples = num_masks = 0
    for key, fault, masks in _read_all(index, limits):
        num_samples += fault is None
        num_masks += masks
        if fault is not None:
            wrong[fault] += 1
            examples.setdefault(fault, key)
    problems += [Problem(path.name, what, num, examples[what]) for what, num in wrong.items()]
    found = {"samples": num_samples, "masks": num_masks}
    if note is not None and not wrong:
        problems += [
            Problem(path.name, f"it has {num} {what}, the index says {note[what]}")
            for what, num in found.items()
            if num != note[what]
        ]
    return ShardReport(num_samples, num_masks, problems)


def _layout_problems(index: ShardIndex, name: str) -> list[Problem]:
    problems = []
    if index.cut_after is not None:
        problems.append(Problem(name, "it is cut short or broken", 1, index.cut_after))
    if index.incomplete:
        key, detail = index.incomplete[0]
        what = "samples lack a half"
        problems.append(Problem(name, what, len(index.incomplete), f"{key}: {detail}"))
    if index.num_repeated:
        what = "files come again after the first of their name, and are left out"
        problems.append(Problem(name, what, index.num_repeated))
    if (np.diff(index.spans[:, [0, 2]].ravel()) <= 0).any():
        problems.append(Problem(name, "its members are not sorted by key, jpg before json"))
    return problems


def _read_all(index: ShardIndex, limits: Limits) -> Iterator[tuple[str, str | None, int]]:
    """Key, what is wrong or None, and number of masks of each sample."""
    for key, span in index.places():
        try:
            jpg, text = read_pair(index.path, span, limits)
            sample = read_sample(key, index.path, jpg, text, keep_crowds=True, limits=limits)
            sample.decode()
            what = _mask_problem(sample, text)
        except SampleError as error:
            yield key, f"samples cannot be read ({error.reason})", 0
            continue
        yield key, what, sample.runs.num_masks


def _mask_problem(sample: AnnotatedImage, text: bytes) -> str | None:
    """What a json says of its masks that they are not, if anything."""
    content, runs = json.loads(text), sample.runs
    annotations, image = content["annotations"], content.get("image", {})
    if [image.get("height"), image.get("width")] != list(runs.size):
        return "the json gives the image another size than its masks"
    if runs.annotation.tolist() != list(range(len(annotations))):
        return "some masks are not one connected component of two pixels or more"
    if [one.get("area") for one in annotations] != runs.areas.tolist():
        return "some areas are not those of the masks"
    if [one.get("bbox") for one in annotations] != boxes_xywh(runs).tolist():
        return "some boxes are not those of the masks"
    return None
