"""Where the benchmarks keep what they make."""

from tests.stack import PROJECT

STATE = PROJECT / ".bench"
"""Git-ignored: figures and profiles of the last run, the peers' environment."""

KEPT = PROJECT / "docs" / "performance"
"""Figures, pictures and profiles of the run that later ones are compared with."""

PAGE = PROJECT / "docs" / "performance.md"
