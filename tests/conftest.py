"""Shared by all tests: `naive` importable by name, and threads that wait asleep, one where nobody asks for more."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded; spinning threads stall beside others

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
