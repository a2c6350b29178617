"""Shared by all tests: `naive` importable by name, and one thread, so that runs are fair to their neighbours."""

import os
import sys
from pathlib import Path

# Asked for before torch loads: it binds the threads of backward passes and of child processes too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
