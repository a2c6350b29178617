"""Shared by all tests: `naive` importable by name, and one thread, so that runs are fair to their neighbours."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
