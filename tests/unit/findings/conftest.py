"""Makes `hand_made` importable: captures small enough to work everything out by hand."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
