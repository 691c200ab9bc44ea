"""Fits that run as a user runs them: in a process of their own, by the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def fit_in(folder: Path, words: Sequence[str]) -> None:
    """`maskfeat fit` in a folder, one thread for each of its processes; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "maskfeat", "fit", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
