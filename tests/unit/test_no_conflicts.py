"""No file of the repository holds what a merge left undone."""

from __future__ import annotations

import subprocess


def test_no_tracked_file_has_a_conflict_marker(repository) -> None:
    words = ["git", "grep", "-I", "-l", "-E", "^(<{7}|>{7}) "]
    found = subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stdout + found.stderr  # 1: no line was found
