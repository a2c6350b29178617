"""A caged decoder: reads one job per line from stdin, writes one clip's frames per job.

The cage is a process of its own with a limit on address space and, by its own alarm, on the seconds per clip; so a
hang, a crash or a memory bomb costs one clip, and nothing outlives a parent that was killed. Lines are JSON: jobs in;
out come `{"beat": frames}`, and per job one `{"done": facts}`, `{"unusable": reason}` (the clip's fault), `{"failed":
reason}` or `{"full": reason}`. It must not know sets or encoders.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

BEAT_SECONDS = 0.5
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PARENT_GONE = 1  # PR_SET_PDEATHSIG


def main(memory_bytes: int) -> None:
    """Serve jobs until stdin ends, within `memory_bytes` of address space (0: no limit)."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
    os.dup2(log.fileno(), 2)  # what the native decoders have to say
    os.dup2(log.fileno(), 1)
    _cage(memory_bytes)
    for line in sys.stdin:
        job = json.loads(line)
        signal.alarm(int(job["seconds"]) + 1)
        print(json.dumps(_answer(job, out, log)), file=out, flush=True)
        signal.alarm(0)


def _cage(memory_bytes: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if memory_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PARENT_GONE, signal.SIGKILL)


def _answer(job: dict[str, Any], out: IO[str], log: IO[bytes]) -> dict[str, Any]:
    from ebwm_cli.data.container import Unusable

    try:
        return {"done": _decode(job, out, log)}
    except Unusable as error:
        return {"unusable": str(error)}
    except MemoryError:
        return {"failed": "decoding needs more memory than a worker may use"}
    except OSError as error:
        return {"full" if error.errno in NO_SPACE else "failed": f"{error.strerror or error}"}


def _decode(job: dict[str, Any], out: IO[str], log: IO[bytes]) -> dict[str, Any]:
    """Decode one clip into job["frames_to"]; its facts as JSON."""
    from ebwm_cli.data.container import probe
    from ebwm_cli.data.decoding import Decoded, Distrusted, decode_decord, decode_pyav, shortfall
    from ebwm_cli.data.sampling import Sampling

    path, limit = Path(job["path"]), job["max_pixels"]
    sampling = Sampling(**job["sampling"])
    beat = _heart(out)
    about = probe(path, limit)
    with open(job["frames_to"], "wb") as file:

        def decoded_by(name: str) -> Decoded:
            file.seek(0)
            file.truncate()
            if name == "pyav":
                return decode_pyav(path, about, sampling, limit, sink, beat)
            quiet = log.seek(0, os.SEEK_END)
            result = decode_decord(path, about, sampling, limit, sink, beat, job["threads"])
            if log.seek(0, os.SEEK_END) > quiet:
                raise Distrusted("decord's log tells of damage")
            return result

        def sink(picture: Any) -> None:
            file.write(picture.tobytes())

        decoder = "pyav"
        if job["decord"]:
            try:
                done, decoder = decoded_by("decord"), "decord"
            except (Distrusted, ImportError):
                done = decoded_by("pyav")
        else:
            done = decoded_by("pyav")
        partial = shortfall(about, done, sampling)
        file.flush()
        os.fsync(file.fileno())
    with open(job["frames_to"], "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "frames": done.frames,
        "indices": done.indices,
        "times": [round(each, 6) for each in done.times],
        "partial": partial,
        "decoder": decoder,
        "codec": about.codec,
        "width": about.width,
        "height": about.height,
        "frames_sha256": digest,
    }


def _heart(out: IO[str]) -> Any:
    """A function of the frames so far that tells the parent, now and then, that this process is alive."""
    last = time.monotonic()

    def beat(frames: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= BEAT_SECONDS:
            last = now
            print(json.dumps({"beat": frames}), file=out, flush=True)

    return beat
