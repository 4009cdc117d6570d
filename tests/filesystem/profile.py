"""How long the state machines run: bounded and always the same in CI, long and always different with `--long`."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings


def is_long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long", default=False))


def profile(request: pytest.FixtureRequest, examples: int, steps: int) -> settings:
    """A failure prints its steps, which can be pasted into a test; in a long run also what reproduces it."""
    long = is_long(request)
    return settings(
        max_examples=examples * (50 if long else 1), stateful_step_count=steps * (2 if long else 1),
        derandomize=not long, print_blob=long, deadline=None, database=None,
        phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def fresh(parent: Path) -> Path:
    """A new empty directory below, with the mode that a new filesystem's root has."""
    path = Path(tempfile.mkdtemp(dir=parent))
    path.chmod(0o755)
    return path


def remove(path: Path) -> None:
    shutil.rmtree(path)
