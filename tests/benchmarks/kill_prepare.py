"""kill -9 at random moments of `ebwm prepare`, then compare bytes: `python tests/benchmarks/kill_prepare.py [KILLS]`.

Renders clips, prepares them once in peace and once through KILLS kills (default 20); fails where the finished sets
differ in a byte, where a clip was decoded twice, or where a set was there and not whole.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from clips import write_clip
from kills import kill_and_compare


def main() -> None:
    """Kill, finish, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = Path(folder) / "clips"
        clips.mkdir()
        for number in range(24):
            write_clip(clips / f"{number}.mp4", frames=300, first=40 * number)
        problems = kill_and_compare(clips, Path(folder), options.kills, options.seed, size=16, latent_dim=16, context=4)
    print(
        "\n".join(problems) or f"{options.kills} kills: the finished set is byte-identical, no clip was decoded twice"
    )
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
