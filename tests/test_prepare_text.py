"""`ebwm prepare text`: packing against naive loops, what is kept and told, and that a killed run costs only time."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kills import digests

from ebwm_cli.commands import prepare_text as command
from ebwm_cli.commands.prepare_text import prepare_text
from ebwm_cli.data.encoders.tokenizer import Tokenizer, train_bpe
from ebwm_cli.data.store import SPLITS, PreparedSet, open_set
from ebwm_cli.data.text import documents
from ebwm_cli.data.text_split import divide_text, place_of
from ebwm_cli.errors import ResourceError
from ebwm_cli.run.report import Notice, Report
from ebwm_cli.run.report_text import PrepareTextReport, TextReport

SMALL = {"vocab_size": 300, "context": 8, "workers": 1}
WORDS = [
    "the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "sëven", "wizards", "brew", "zinc",
    "🦊", "potions", "near", "an", "old", "mill",
]  # fmt: skip


def prose(seed: int, words: int) -> str:
    dice = random.Random(seed)
    return " ".join(dice.choice(WORDS) + "\n" * (dice.random() < 0.1) for _ in range(words))


def prepare(src: Path | str, out: Path, **options: object) -> PrepareTextReport:
    end = reports(src, out, **options)[-1]
    assert isinstance(end, PrepareTextReport)
    return end


def reports(src: Path | str, out: Path, **options: object) -> list[Report]:
    return list(prepare_text(str(src), out, **{**SMALL, **options}))  # type: ignore[arg-type]


def notices(told: list[Report]) -> list[str]:
    return [each.notice for each in told if isinstance(each, Notice)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents in files of every kind, two of them the same, and three that can't be used."""
    folder = tmp_path_factory.mktemp("many") / "source"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.txt").write_text(prose(number, 120), newline="")
    (folder / "a.md").write_text(prose(3, 120), newline="")
    rows = [prose(100 + number, 60) for number in range(20)]
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows) + "no json\n")
    pq.write_table(pa.table({"text": [*(prose(200 + i, 60) for i in range(9)), None]}), folder / "c.parquet")
    (folder / "d.txt").write_bytes(b"abc\xff")
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of one document each, to be cut into blocks."""
    folder = tmp_path_factory.mktemp("one") / "source"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text(prose(ord(name), 900), newline="")
    (folder / "short.txt").write_text("too short to be cut")
    return folder


def test_reports(many: Path, tmp_path: Path) -> None:
    told = reports(many, tmp_path / "set")
    end, steps = told[-1], [each for each in told if isinstance(each, TextReport)]
    assert isinstance(end, PrepareTextReport)
    assert (end.files, end.documents, end.split_by, end.tokenizer, end.vocab_size) == (13, 40, "document", "bpe", 300)
    assert [(each.file, each.reason) for each in end.quarantined] == [
        ("b.jsonl:21", "no JSON"), ("c.parquet:10", "has no text under 'text'"), ("d.txt", "no UTF-8 at byte 3"),
    ]  # fmt: skip
    done = [each.bytes_done for each in steps]
    assert done == sorted(done)
    assert done[-1] == steps[-1].bytes_total
    assert (steps[-1].tokens, steps[-1].eta_seconds) == (end.tokens, 0)
    assert end.bytes_per_token == pytest.approx(end.bytes / end.tokens)
    prepared = open_set(tmp_path / "set")
    assert prepared.spec.model_dump() == {"modality": "text", "state_dim": 300, "context": 8}
    assert prepared.manifest["train_stride"] == 1
    assert [each["documents"] for each in prepared.manifest["documents"]] == [1] * 11 + [20, 9]
    lines = (tmp_path / "set" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [each.model_dump() for each in end.quarantined]
    counted = prepared.manifest["splits"]
    assert sum(counted[name]["documents"] for name in SPLITS) == 40
    assert {name: counted[name]["windows"] for name in SPLITS} == end.windows.model_dump()
    shown = "".join(end.sample)
    assert "".join(text for _, text in naive_parts(many, prepared)["train"][:1]).startswith(shown[:60])


def naive_parts(source: Path, prepared: PreparedSet) -> dict[str, list[tuple[bool, str]]]:
    """Of each stretch of each part: whether its document begins with it, and its text, with \\0 for its end."""
    texts = [
        text
        for entry in prepared.manifest["documents"]
        for text in documents(source / entry["file"], "text")
        if isinstance(text, str)
    ]
    division = divide_text([place_of(text) for text in texts], [len(text) for text in texts], prepared.spec.context)
    parts: dict[str, list[tuple[bool, str]]] = {name: [] for name in SPLITS}
    for number, text in enumerate(texts):
        for part in division.stretches(number, text):
            end = "\0" if part.last == len(text) else ""
            parts[SPLITS[part.label]].append((part.first == 0, text[part.first : part.last] + end))
    return parts


@pytest.mark.parametrize("context", [3, 8, 40])
@pytest.mark.parametrize("source", ["many", "one"])
def test_tokens_segments_and_windows_are_those_of_naive_loops(
    source: str, context: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(source)
    prepare(folder, tmp_path / "set", context=context)
    prepared = open_set(tmp_path / "set")
    tokenizer = prepared.encoder
    assert isinstance(tokenizer, Tokenizer)
    for name, parts in naive_parts(folder, prepared).items():
        split = prepared.split(name)
        tokens: list[int] = []
        segments: list[int] = []  # of each token
        segment, closed = 0, True
        for begins, text in parts:
            segment += not (begins and closed)
            closed = text.endswith("\0")
            more = tokenizer.encode(text.removesuffix("\0")).tolist() + [tokenizer.end_of_text] * closed
            tokens += more
            segments += [segment] * len(more)
        assert split.states.dtype == np.int32
        assert split.states.tolist() == tokens
        assert len(split) == len(tokens)
        stride = max(1, context // 16) if name == "train" else context
        windows = []
        for first in range(len(tokens) - context):
            since = first - segments.index(segments[first])
            if segments[first] == segments[first + context] and since % stride == 0:
                windows.append(first)
        assert split.windows().tolist() == windows
        assert windows
        text = tokenizer.decode(split.states)
        assert text == "".join(part.removesuffix("\0") for _, part in parts)


def test_a_part_of_the_text_trains_the_tokenizer_and_no_other(one: Path, tmp_path: Path) -> None:
    prepare(one, tmp_path / "set")
    prepared = open_set(tmp_path / "set")
    training = [text.removesuffix("\0") for _, text in naive_parts(one, prepared)["train"]]
    fitted = train_bpe(iter(training), 300, threads=1)
    assert isinstance(prepared.encoder, Tokenizer)
    assert prepared.encoder.to_json() == fitted.to_json()


def test_sets_are_byte_identical_for_any_number_of_workers(many: Path, tmp_path: Path) -> None:
    for workers in (1, 2, 4):
        prepare(many, tmp_path / str(workers), workers=workers)
    assert digests(tmp_path / "1") == digests(tmp_path / "2") == digests(tmp_path / "4")


def test_a_second_run_tokenizes_nothing_and_leaves_the_set_alone(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source", tmp_path / "set"
    shutil.copytree(many, source)
    assert prepare(source, out).reused_files == 0
    before, stamp = digests(out), (out / "manifest.json").stat().st_mtime_ns
    with monkeypatch.context() as patched:
        patched.setattr(command, "tokenize", None)
        patched.setattr(command, "train_bpe", None)
        again = prepare(source, out)
    assert (again.reused_files, again.bytes_per_second) == (13, 0)
    assert digests(out) == before
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    (source / "2.txt").write_text(prose(2, 119))
    assert prepare(source, out, tokenizer="bytes", vocab_size=None).reused_files == 0
    (source / "2.txt").write_text(prose(77, 120))
    assert prepare(source, out, tokenizer="bytes", vocab_size=None).reused_files == 12


def test_a_flip_in_what_is_kept_is_made_good(many: Path, tmp_path: Path) -> None:
    out, dice = tmp_path / "set", random.Random(0)
    prepare(many, out)
    before = digests(out)
    (bpe,) = (out / ".tokens").glob("bpe-*")
    tokens = sorted((out / ".tokens").glob("tokens-*"))
    for file in (bpe, bpe, tokens[0], tokens[1]):
        data = bytearray(file.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        file.write_bytes(data)
        assert prepare(many, out).reused_files == 13 - (file != bpe)
        assert digests(out) == before
    bpe.write_bytes(bpe.read_bytes()[:40])
    tokens[2].write_bytes(b"")
    arrow = next((out / "val").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-9])
    assert prepare(many, out).reused_files == 12
    assert digests(out) == before


CODE = """
import os, signal, sys
from pathlib import Path
from ebwm_cli.commands.prepare_text import prepare_text
replace, left = os.replace, int(sys.argv[3])
def dying(*names):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
os.replace = dying
for report in prepare_text(sys.argv[1], Path(sys.argv[2]), vocab_size=300, context=8, workers=2):
    pass
"""


@pytest.mark.parametrize(("renames", "reused"), [(1, 0), (7, 6), (17, 13)], ids=["fitting", "tokenizing", "committing"])
def test_killed_at_any_moment_the_same_command_goes_on(renames: int, reused: int, many: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-c", CODE, str(many), str(tmp_path / "killed"), str(renames)]
    dead = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert not (tmp_path / "killed" / "manifest.json").exists()
    assert prepare(many, tmp_path / "killed").reused_files == reused
    prepare(many, tmp_path / "whole")
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


class Full:
    """Lets `good` calls through, then the disk is full once."""

    def __init__(self, call: Callable[..., object], good: int) -> None:
        self.call, self.good = call, good

    def __call__(self, *names: object, **options: object) -> object:
        self.good -= 1
        if self.good == -1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.call(*names, **options)


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_full_disk_is_told_and_the_same_command_goes_on(
    name: str, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(one, tmp_path / "whole")
    expected = digests(tmp_path / "whole")
    for good in range(0, 200, 5):
        out = tmp_path / str(good)
        full = Full(getattr(os, name), good)
        with monkeypatch.context() as patched:
            patched.setattr(os, name, full)
            if full.good < 0:
                break
            try:
                prepare(one, out)
            except ResourceError as error:
                assert ("No space left" in error.message, error.exit_code) == (True, 7)  # noqa: PT017
                assert "same command" in error.hint  # noqa: PT017
        if (out / "manifest.json").exists():
            open_set(out)
        prepare(one, out)
        assert digests(out) == expected
        if full.good >= 0:
            break
    assert good > 3
