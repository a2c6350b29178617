"""Shared by all tests: `naive` importable by name, and threads that wait asleep, one where nobody asks for more."""

import os
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded; threads that spin for long stall others

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
