"""Our clicks beside the classics, on the same targets in one run.

    python experiments/interactive/benchmark.py --data ../shared/data/iis/coco_mval

and, with the sets of the field in the folders they are handed around in, the field's own table:

    python experiments/interactive/benchmark.py --data grabcut=GrabCut --data berkeley=Berkeley \
        --data davis=DAVIS --data sbd=SBD/dataset --data coco_mval=COCO_MVal

The main session is that of RITM: its simulated user, 20 clicks, what is never reached counts 20.
Some targets are clicked on to 100. Other users have short sessions with several seeds. Ends in one
table, as markdown and json, and one plot of IoU against clicks. Every session is written to
sessions.jsonl as soon as it is over: the same command goes on where it was stopped. Slow methods
take every n-th target, and of the other users the first alone; their NoC is compared with the first
method's on the same targets. Times are CPU seconds of one thread.

Needs the extra "bench": OpenCV and matplotlib.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import report
from rich.progress import Progress
from sessions import METHODS, USERS, Rules, simulate
from targets import LAYOUTS, open_targets
from versions import commit

from maskfeat.batch import ClickTarget
from maskfeat.data.order.schedule import evenly_spaced

SLOW = ("grabcut", "random_walker", "geodesic", "nearest_click")
OURS = ("radius", "cut", "coloring", "tree", "ward_tree")


class Job(NamedTuple):
    """All sessions of one method on one target; `num_clicks` is the length of the main one."""

    data: str
    target: str
    method: str
    num_clicks: int


def jobs_of(
    name: str,
    targets: Sequence[ClickTarget | None],
    args: argparse.Namespace,
    progress: Progress,
) -> Iterator[tuple[Job, ClickTarget]]:
    """What is to be run on one set; each target is read when its turn comes."""
    slow = range(0, len(targets), args.slow_every)
    # Long sessions on targets of all methods, at most all of them.
    chosen = slow if args.long_targets <= len(slow) else range(len(targets))
    num_long = args.long_targets
    long = {chosen[i] for i in evenly_spaced(len(chosen), num_long)} if num_long else set()
    for i, target in enumerate(progress.track(targets, description=name)):
        if target is None or not (target.target == 1).any():
            progress.print(f"{name}: target {i} is left out, nothing in it is a fair object")
            continue
        for method in args.methods:
            if i in slow or method not in args.slow:
                clicks = max(args.clicks, args.long_clicks) if i in long else args.clicks
                yield Job(name, target.key, method, clicks), target


def run_jobs(
    pool: Executor,
    jobs: Iterator[tuple[Job, ClickTarget]],
    args: argparse.Namespace,
    rules: Rules,
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Run on all processes; sessions come as they end, and few targets wait in memory."""
    slow_rules = dataclasses.replace(rules, users=rules.users[:1])
    waiting: dict[Future[dict[str, Any]], Job] = {}
    for job, target in jobs:
        of_method = slow_rules if job.method in args.slow else rules
        future = pool.submit(simulate, job.method, args.model, target, job.num_clicks, of_method)
        waiting[future] = job
        if len(waiting) >= 2 * args.jobs:
            yield from _ended(waiting)
    while waiting:
        yield from _ended(waiting)


def _ended(
    waiting: dict[Future[dict[str, Any]], Job],
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Take the sessions that are over out of those that wait, at least one."""
    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
        job = waiting.pop(future)
        try:
            yield job, future.result()
        except Exception as error:
            raise RuntimeError(
                f"{job.method} failed on {job.target} of {job.data}: {error}"
            ) from error


class SessionFile:
    """The sessions that are over, one line of json each under a line of settings.

    Args:
        path: The file; made if it is not there.
        settings: What would change a session.

    Raises:
        ValueError: If the file there was made with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.rows: dict[Job, dict[str, Any]] = {}
        self._path = path
        whole = path.read_text().split("\n")[:-1] if path.is_file() else []  # no broken last line
        if not whole:
            whole = [json.dumps(settings)]
        elif json.loads(whole[0]) != settings:
            raise ValueError(
                f"'{path}' holds sessions with other settings ({whole[0]}); give another --out or "
                "remove it"
            )
        for line in whole[1:]:
            entry = json.loads(line)
            self.rows[Job(*entry["job"])] = entry["row"]
        path.write_text("\n".join(whole) + "\n")

    def add(self, job: Job, row: dict[str, Any]) -> None:
        """Keep a session."""
        self.rows[job] = row
        with self._path.open("a") as file:
            file.write(json.dumps({"job": job, "row": row}) + "\n")


def run_all(
    sets: dict[str, Sequence[ClickTarget | None]],
    args: argparse.Namespace,
    rules: Rules,
    sessions: SessionFile,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Every session that is not over yet; then all of them, by set, method and target."""
    wanted: list[Job] = []

    def missing(jobs: Iterator[tuple[Job, ClickTarget]]) -> Iterator[tuple[Job, ClickTarget]]:
        for job, target in jobs:
            wanted.append(job)
            if job not in sessions.rows:
                yield job, target

    context = get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool, Progress() as progress:
        for name, targets in sets.items():
            jobs = missing(jobs_of(name, targets, args, progress))
            for job, row in run_jobs(pool, jobs, args, rules):
                sessions.add(job, row)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for job in wanted:
        rows = found.setdefault(job.data, {}).setdefault(job.method, {})
        rows[job.target] = sessions.rows[job]
    return found


def arguments() -> argparse.Namespace:
    """What was typed, checked.

    Raises:
        SystemExit: If it makes no sense, with one sentence.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data = "a folder with index.json, tars, or LAYOUT=FOLDER; may be repeated"
    parser.add_argument("--data", action="append", required=True, help=data)
    parser.add_argument("--layout", choices=LAYOUTS, help="of all --data that name none")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--num_targets", type=int, help="of each set, evenly spaced; all if left")
    parser.add_argument("--clicks", type=int, default=20, help="of the main session")
    parser.add_argument("--long_clicks", type=int, default=100, help="of a long session")
    parser.add_argument(
        "--long_targets", type=int, default=10, help="of each set, clicked for long"
    )
    parser.add_argument("--users", nargs="*", choices=USERS, default=list(Rules().users))
    parser.add_argument("--user_clicks", type=int, default=5, help="of these users' sessions")
    parser.add_argument("--seeds", type=int, default=3, help="sessions of each of these users")
    parser.add_argument("--slow", nargs="*", choices=METHODS, default=list(SLOW))
    parser.add_argument("--slow_every", type=int, default=4, help="slow ones take every n-th")
    parser.add_argument("--model", default="maskfeat-b0", help="a name, .ckpt or .safetensors")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread")
    parser.add_argument("--out", type=Path, default=Path("experiments/interactive"))
    args = parser.parse_args()
    for name in ("clicks", "long_clicks", "user_clicks", "seeds", "slow_every", "jobs"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.long_targets < 0:
        parser.error(f"--long_targets must not be negative, got {args.long_targets}")
    return args


def open_sets(args: argparse.Namespace) -> dict[str, Sequence[ClickTarget | None]]:
    """The sets by name.

    Raises:
        FileNotFoundError, ValueError: See `open_targets`; or two sets have one name.
    """
    sets: dict[str, Sequence[ClickTarget | None]] = {}
    for data in args.data:
        name, targets = open_targets(data, args.layout, args.num_targets)
        if name in sets:
            raise ValueError(f"two sets are called {name!r}; run them with an --out each")
        sets[name] = targets
    return sets


def main() -> None:
    """Run, print, save."""
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes started below
    try:
        sets = open_sets(args)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    rules = Rules(args.clicks, tuple(args.users), args.user_clicks, args.seeds)
    settings = {"commit": commit(), "model": args.model, "slow": args.slow}
    settings |= dataclasses.asdict(rules)
    settings = json.loads(json.dumps(settings))  # as they are read again: tuples are lists
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        sessions = SessionFile(args.out / "sessions.jsonl", settings)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    found = run_all(sets, args, rules, sessions)
    if not found:
        raise SystemExit(f"there is no object to click in {', '.join(args.data)}")
    reference = args.methods[0]
    summaries = {
        name: {
            method: report.summarize(rows, methods.get(reference, {}), args.clicks)
            for method, rows in methods.items()
        }
        for name, methods in found.items()
    }
    text = report.table(summaries, reference, args.clicks)
    typed = ("num_targets", "long_clicks", "long_targets", "slow_every")
    record = {
        **settings,
        **{name: getattr(args, name) for name in typed},
        "reference": reference,
        "sets": summaries,
    }
    (args.out / "result.json").write_text(json.dumps(without_nan(record), indent=1) + "\n")
    (args.out / "result.md").write_text(text)
    report.plot(summaries, OURS, args.out / "result.png")
    print(text)


def without_nan(value: Any) -> Any:
    """The same with None for what does not exist: json has no NaN."""
    if isinstance(value, dict):
        return {name: without_nan(v) for name, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    main()
