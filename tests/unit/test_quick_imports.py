"""The garbage collector rests while a program imports torch, and then works as ever."""

from __future__ import annotations

import gc
import subprocess
import sys

from maskfeat.quick_imports import QuickImports

BEGINS = """
import gc
from maskfeat.quick_imports import QuickImports
with QuickImports():
    assert not gc.isenabled()
    made = [[] for _ in range(1000)]
assert gc.isenabled()
assert gc.get_freeze_count() > 1000
"""


def test_what_a_program_imports_first_is_looked_through_by_no_collection() -> None:
    subprocess.run([sys.executable, "-c", BEGINS], check=True)


def test_later_imports_leave_the_collector_as_it_is() -> None:
    import torch  # noqa: F401

    frozen = gc.get_freeze_count()
    with QuickImports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
