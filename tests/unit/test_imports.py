"""Modules of the package import one way: no circles, and rooms in one order."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

# From the bottom up; a room imports itself and those below. Rooms of one line are peers that do
# not import each other.
ROOMS = [
    [
        "arrays",
        "batch",
        "files",
        "folder_lock",
        "arguments",
        "deprecation",
        "former_modules",
        "array_file",
        "quick_imports",
    ],
    ["data"],
    ["features"],
    ["segment"],
    ["interactive", "labeling"],
    ["evaluate"],
    ["running"],
    [
        "app",
        "integrations",
        "cli",
        "__main__",
        "console",
        "lightning_cli",
        "help_text",
    ],
]
ROOMS[0] += ["tensor_file", "recent", "onnx_file"]
ROOMS[-1] += ["parser_errors", "packaged", "tasks"]
# Rooms across the order.
ALSO = {
    # Layouts of masks: built on run-length masks alone, used by whoever writes them.
    "formats": {"arrays", "files", "data.annotations"},
}
# What is still to be moved, by owner, with the reason. Take a line away when it is done.
ALLOWED: dict[tuple[str, str], str] = {
    ("running.failures", "parser_errors"): "app: the sentences of both belong in one room",
    ("arguments", "data.folder"): "data: reading an image file belongs below `arguments`",
}


ALLOWED_CIRCLES = {
    ("maskfeat.cli", "maskfeat.console"): "app: the start of the commands before torch is imported",
}


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for path in sorted((ROOT / "maskfeat").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports() -> dict[str, set[str]]:
    """The modules that each module imports, at its top, in functions and for types."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} has a relative import"
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    targets.add(inner if inner in known else str(node.module))
        found[name] = {target for target in targets if target in known and target != name}
    return found


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in sorted(edges[name]):
            if target not in order:
                visit(target)
            if target in stack:
                low[name] = min(low[name], low[target])
        if low[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(edges):
        if name not in order:
            visit(name)
    return found


def room_of(name: str) -> str:
    """The first part of a name within the package."""
    return name.removeprefix("maskfeat").lstrip(".").partition(".")[0]


def is_within(name: str, room: str) -> bool:
    within = name.removeprefix("maskfeat.")
    return within == room or within.startswith(f"{room}.")


def is_allowed(source: str, target: str) -> bool:
    """Whether a module may import another one."""
    one, other = room_of(source), room_of(target)
    if one == other or not one or not other:  # the package itself offers names of all rooms
        return True
    if one in ALSO:
        return any(is_within(target, room) for room in ALSO[one])
    if other in ALSO:
        return not any(is_within(source, room) for room in ALSO[other])
    rank = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    is_bottom = rank[one] == 0
    return rank[other] < rank[one] or (
        rank[other] == rank[one] and (is_bottom or one not in ("interactive", "labeling"))
    )


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert {tuple(circle) for circle in circles(imports())} == ALLOWED_CIRCLES.keys()


def test_every_module_has_a_room() -> None:
    rooms = {room for rooms in ROOMS for room in rooms} | ALSO.keys() | {""}
    assert {room_of(name) for name in modules()} <= rooms


def test_rooms_import_one_way() -> None:
    found = {
        (source, target)
        for source, targets in imports().items()
        for target in targets
        if not is_allowed(source, target)
    }
    short = {tuple(name.removeprefix("maskfeat.") for name in pair) for pair in found}
    assert short == ALLOWED.keys()
