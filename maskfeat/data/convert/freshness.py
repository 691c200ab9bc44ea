"""Whether shards are still what their sources hold."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from maskfeat.data.convert.sources import find_inputs
from maskfeat.data.convert.state import PLAN_VERSION


class Freshness(NamedTuple):
    """What became of the sources of a folder of shards.

    Attributes:
        changed: Name and place of the inputs whose source has changed since.
        unknown: Why it is not known of others, a sentence each.
    """

    changed: list[tuple[str, str]]
    unknown: list[str]


def compare_sources(plan: dict[str, Any] | None) -> Freshness:
    """Measure the sources of a folder of shards again.

    Args:
        plan: As `ConvertState.read_plan` reads it.
    """
    if plan is None or plan.get("version") != PLAN_VERSION:
        return Freshness([], ["the folder does not tell what its shards were made of"])
    by_source: dict[tuple[str, str, str | None], list[str]] = defaultdict(list)
    for name, one in plan["inputs"].items():
        by_source[one["place"], one["kind"], one["images_dir"]].append(name)
    found = Freshness([], [])
    for (place, kind, images_dir), names in by_source.items():
        try:
            inputs = find_inputs([place], kind, images_dir)
        except OSError as error:
            found.unknown.append(f"a source is not within reach: {error}")
            continue
        except ValueError:  # it cannot be listed any more
            found.changed.extend((name, place) for name in names)
            continue
        now = {one.name: one.measure for one in inputs}
        then = {name: plan["inputs"][name]["measure"] for name in names}
        found.changed.extend(
            (name, place) for name in sorted(now | then) if now.get(name) != then.get(name)
        )
    return found
