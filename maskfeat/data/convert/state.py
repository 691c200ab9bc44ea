"""What a folder of shards remembers, so that a conversion that was stopped goes on.

All of it lies in the folder `.convert`, in small files that are written whole:

    plan.json           the settings, and the inputs seen so far
    NAME-000000.json    what is in the shard NAME-000000.tar; written when the shard is whole
    NAME.done.json      written when all shards of an input are whole

Each note says by which measure of its input it was made (`made_of`). One that was made of
something else counts for nothing, so what has changed in the source is converted anew.

Jobs that share out the inputs write no file of another's. `index.json`, beside the shards, is
written by whichever finds that all inputs are done: it is then the same for each.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maskfeat.data.convert.sample import Recipe
from maskfeat.data.convert.sources import Input
from maskfeat.files import whole_file
from maskfeat.folder_lock import FolderInUseError, held_lock

Json = dict[str, Any]

INDEX_NAME = "index.json"
_VERSION = 1
PLAN_VERSION = 2  # 1 did not say what shards were made of
_PAUSE_S = 0.5  # between two looks whether a lock is free
_GUARD = threading.Lock()
_HELD: set[Path] = set()  # locks of this process
_LOG = logging.getLogger("maskfeat")


class ConvertState:
    """The memory of one folder of shards, which is made if absent.

    Attributes:
        folder: The folder.
        notes: The folder of the notes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.notes = self.folder / ".convert"

    def adopt(self, inputs: Sequence[Input], recipe: Recipe) -> None:
        """Take up the folder for some inputs; more may be added to what it has.

        An input whose source has changed is to be converted anew; one that its source no longer
        gives is removed with its shards.

        Raises:
            ValueError: If it was begun with other settings, if an input comes from another place
                and is not the same, or if it holds tars of someone else.
        """
        plan = self._plan_of(recipe.described())
        known = dict(plan["inputs"])
        for one in inputs:
            then = known.get(one.name)
            if then is not None and then["measure"] != one.measure:
                if then["place"] != one.place:
                    raise ValueError(
                        f"'{one.source}' is not what '{self.folder}' was begun with under the name "
                        f"{one.name}, '{then['place']}'; choose another folder"
                    )
                _LOG.warning("%s has changed and is converted anew", one.source)
            known[one.name] = {
                "place": one.place,
                "kind": one.kind,
                "images_dir": one.images_dir,
                "measure": one.measure,
                "left_out": dict(one.left_out),
            }
        given, now = {one.place for one in inputs}, {one.name for one in inputs}
        # A source that was cut into several inputs may give fewer now.
        gone = [n for n, one in known.items() if n not in now and one["place"] in given]
        for name in gone:
            _LOG.warning("%s is no longer in its source; its shards are removed", name)
            self.clear_unfinished(name, 0)
            del known[name]
        if known != plan["inputs"] or not self._plan_path.is_file():
            # An index of before must not vouch for shards of before.
            (self.folder / INDEX_NAME).unlink(missing_ok=True)
            write_json(self._plan_path, {**plan, "inputs": dict(sorted(known.items()))})

    def _plan_of(self, settings: Json) -> Json:
        """The plan of a folder that is new, or was begun with these settings."""
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = self.read_plan()
        if plan is None:
            if any(self.folder.glob("*.tar")):
                raise ValueError(
                    f"'{self.folder}' holds tars that this command did not write; "
                    "choose another folder"
                )
            return {"version": PLAN_VERSION, "settings": settings, "inputs": {}}
        if plan.get("version") != PLAN_VERSION:
            raise ValueError(f"'{self.folder}' was begun by another version; choose another folder")
        before = plan["settings"]
        other = [
            f"{n} {before.get(n)} and not {v}" for n, v in settings.items() if before.get(n) != v
        ]
        if other:
            raise ValueError(
                f"'{self.folder}' was begun with {', '.join(other)}; "
                "use the same settings or choose another folder"
            )
        return plan

    def read_plan(self) -> Json | None:
        """The settings and inputs; None for a folder that is new.

        An input has the place of its source, `kind` and `images_dir` for `find_inputs` to find it
        there again, its measure, and what it left out of all samples.
        """
        return read_json(self._plan_path) if self._plan_path.is_file() else None

    def finished_shards(self, name: str, measure: str) -> list[Json]:
        """Notes on the whole shards of an input of this measure, up to the first that is not."""
        notes: list[Json] = []
        while (path := self.notes / f"{name}-{len(notes):06d}.json").is_file():
            note = read_json(path)
            shard = self.folder / note["shard"]
            if note.get("made_of") != measure:
                break
            if not shard.is_file() or shard.stat().st_size != note["bytes"]:
                break
            notes.append(note)
        return notes

    def is_done(self, name: str, measure: str) -> bool:
        """Whether all shards of an input, as it is now, are there."""
        path = self.notes / f"{name}.done.json"
        if not path.is_file():
            return False
        note = read_json(path)
        is_same = note.get("made_of") == measure
        return is_same and len(self.finished_shards(name, measure)) == note["shards"]

    def undone(self) -> list[str]:
        """The inputs with missing shards."""
        plan = self.read_plan() or {"inputs": {}}
        return [n for n, one in plan["inputs"].items() if not self.is_done(n, one["measure"])]

    def clear_unfinished(self, name: str, num_finished: int) -> None:
        """Remove what a run that was killed has left of an input, beyond its finished shards."""
        (self.notes / f"{name}.done.json").unlink(missing_ok=True)
        digits = "[0-9]" * 6
        for path in self.folder.glob(f".{name}-{digits}.tar.*.part"):
            path.unlink(missing_ok=True)
        for pattern in (f"{name}-{digits}.tar", f".convert/{name}-{digits}.json"):
            for path in self.folder.glob(pattern):
                if int(path.stem[-6:]) >= num_finished:
                    path.unlink(missing_ok=True)

    def note_shard(self, note: Json) -> None:
        """Remember that a shard is whole."""
        write_json(self.notes / Path(note["shard"]).with_suffix(".json").name, note)

    def note_done(self, name: str, note: Json) -> None:
        """Remember that an input is done, with what was skipped after its last sample."""
        write_json(self.notes / f"{name}.done.json", note)

    @contextlib.contextmanager
    def lock(self, name: str, waits: bool = False) -> Iterator[bool]:
        """Hold an input; a killed process holds nothing.

        Yields:
            Whether it is held; False if another process or thread holds it, and `waits` is False.
        """
        lock = self.notes / f"{name}.lock"
        with contextlib.ExitStack() as stack:
            while True:
                with _GUARD, contextlib.suppress(FolderInUseError):
                    if lock not in _HELD:  # the lock of a file is that of a whole process
                        stack.enter_context(held_lock(lock, self.folder, f"a conversion of {name}"))
                        _HELD.add(lock)
                        stack.callback(_HELD.discard, lock)
                        break
                if not waits:
                    yield False
                    return
                time.sleep(_PAUSE_S)
            yield True

    def write_index(self) -> Json | None:
        """Write `index.json` if all inputs are done.

        Returns:
            Its content; None if some input is not done.
        """
        if self.undone():
            return None
        index = self.summary()
        write_json(self.folder / INDEX_NAME, index)
        return index

    def summary(self) -> Json:
        """What `index.json` holds, of what is finished so far."""
        plan = self.read_plan()
        assert plan is not None
        shards: list[Json] = []
        inputs: Json = {}
        skipped: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        for name, source in plan["inputs"].items():
            notes = self.finished_shards(name, source["measure"])
            left_out.update(source.get("left_out", {}))
            lost = [one for note in notes for one in note["skipped"]]
            if self.is_done(name, source["measure"]):
                lost += read_json(self.notes / f"{name}.done.json")["skipped"]
            reasons = Counter(str(one["reason"]) for one in lost)
            skipped += reasons
            for note in notes:
                left_out.update(note["left_out"])
            hidden = ("skipped", "made_of", "left_out")
            shards += [{k: v for k, v in note.items() if k not in hidden} for note in notes]
            inputs[name] = {
                "source": Path(source["place"]).name,
                "shards": len(notes),
                "samples": sum(note["samples"] for note in notes),
                "skipped": dict(sorted(reasons.items())),
            }
        totals = {what: sum(s[what] for s in shards) for what in ("samples", "masks", "bytes")}
        return {
            "version": _VERSION,
            "settings": plan["settings"],
            **totals,
            "skipped": dict(sorted(skipped.items())),
            "masks_left_out": dict(sorted(left_out.items())),
            "inputs": inputs,
            "shards": shards,
        }

    @property
    def _plan_path(self) -> Path:
        return self.notes / "plan.json"


def read_json(path: Path) -> Json:
    """Read an object from a JSON file.

    Raises:
        ValueError: If it is none.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"'{path}' cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' must hold a JSON object")
    return content


def write_json(path: Path, content: Json) -> None:
    """Write a JSON file, whole or not at all."""
    with whole_file(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")
