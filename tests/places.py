"""Where things lie: the project, and the reference data beside it, which few machines have."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
