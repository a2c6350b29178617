"""Frames per second of `ebwm prepare` with 2 workers, over bare in-order decord decoding by 2 processes.

`python tests/benchmarks/bench_prepare.py [FOLDER]` prepares the clips of FOLDER (without it, clips it renders) into
a temporary set, end to end and decoding alone, and decodes them with nothing but decord in 2 processes, all in one run
and in turn, process start included everywhere. Exits 1 below the target of 0.7.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ebwm_cli.commands.prepare import prepare_video
from ebwm_cli.data.files import find_clips
from ebwm_cli.run.report import PrepareReport

TARGET = 0.7
WORKERS = 2
BARE = """
import sys, decord
count = 0
for path in sys.argv[1:]:
    reader = decord.VideoReader(path, num_threads=1)
    for _ in range(len(reader)):
        reader.next().asnumpy()
        count += 1
print(count)
"""


def bare_seconds(paths: list[Path]) -> float:
    """Wall-clock seconds for 2 processes that decode all frames of `paths` and do nothing else."""
    shares: list[list[Path]] = [[] for _ in range(WORKERS)]
    sizes = [0] * WORKERS
    for path in sorted(paths, key=lambda each: -each.stat().st_size):
        smallest = sizes.index(min(sizes))
        shares[smallest].append(path)
        sizes[smallest] += path.stat().st_size
    began = time.monotonic()
    commands = [[sys.executable, "-c", BARE, *map(str, share)] for share in shares if share]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
    for process in running:
        process.wait()
    return time.monotonic() - began


def prepare_seconds(folder: Path, out: Path) -> tuple[int, float, float]:
    """Frames, seconds spent decoding, seconds of the whole command; nothing is reused."""
    shutil.rmtree(out, ignore_errors=True)
    reports = list(prepare_video(folder, out, workers=WORKERS))
    end = reports[-1]
    assert isinstance(end, PrepareReport)
    return end.frames, end.frames / end.frames_per_second, end.seconds


def render(folder: Path) -> None:
    """Six clips of two sizes."""
    from clips import write_clip

    for number in range(6):
        size = (640, 360) if number % 2 else (192, 108)
        write_clip(folder / f"{number}.mp4", frames=1500 if number % 2 else 4000, rate=25, size=size, first=37 * number)


def main() -> None:
    """Measure in turn, print the medians, compare with the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="clips; without it some are rendered")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        folder = options.folder or Path(aside) / "clips"
        if options.folder is None:
            folder.mkdir()
            render(folder)
        paths = list(find_clips(folder))
        frames, rows = 0, []
        for _ in range(options.repeats):
            bare = bare_seconds(paths)
            frames, decoding, whole = prepare_seconds(folder, Path(aside) / "set")
            rows.append((bare, decoding, whole))
    bare, decoding, whole = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"{len(paths)} clips, {frames} frames, median of {options.repeats}")
    print(f"bare decord, {WORKERS} processes   {frames / bare:8.0f} frames/s")
    print(f"prepare, decoding         {frames / decoding:8.0f} frames/s   ratio {bare / decoding:.2f}")
    print(f"prepare, whole command    {frames / whole:8.0f} frames/s   ratio {bare / whole:.2f}")
    ratio = bare / decoding
    print(f"ratio {ratio:.2f}, target {TARGET}")
    sys.exit(ratio < TARGET)


if __name__ == "__main__":
    main()
