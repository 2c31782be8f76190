"""Where things lie: the checkout, and the team's shared data beside it (absent elsewhere)."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / 'tests'
SHARED = ROOT.parent / 'shared'
