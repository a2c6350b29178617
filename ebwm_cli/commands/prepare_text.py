"""`ebwm prepare text`: documents -> a prepared set. Read, divide, fit a tokenizer to the training part, tokenize, pack.

A plain generator of reports: TextReports of progress, Notices, a PrepareTextReport last. The tokenizer and each file's
tokens are kept, so the same command after any interruption goes on where it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from ebwm_cli import __version__
from ebwm_cli.data.encoders.tokenizer import (
    ALPHABET,
    HINT,
    Tokenizer,
    byte_tokenizer,
    read_tokenizer,
    reread_bpe,
    train_bpe,
)
from ebwm_cli.data.files import space_or_error
from ebwm_cli.data.kept import Kept
from ebwm_cli.data.labels import Labelling
from ebwm_cli.data.split import TRAIN
from ebwm_cli.data.store import FORMAT, SPLITS, Split
from ebwm_cli.data.text_hub import HUB, identity, is_local, is_whole, name_and_split, stream
from ebwm_cli.data.text_intake import Corpus, TextFile, read_files
from ebwm_cli.data.text_split import TextDivision, divide_text
from ebwm_cli.data.text_tokens import Advance, FileTokens, pieces, tokenize
from ebwm_cli.data.text_writer import TextWriter
from ebwm_cli.data.writer import TOKENS, commit, locked, new_building, write_encoder, write_quarantine
from ebwm_cli.errors import DataError, UsageError
from ebwm_cli.recipe.schema import StateSpec
from ebwm_cli.run.processors import usable_cores
from ebwm_cli.run.report import Notice, Quarantined, Report, WindowCounts
from ebwm_cli.run.report_text import PrepareTextReport, TextReport

BYTES = "bytes"
VOCABULARY = 4096
SAMPLE = 48
"""Tokens of the training part that are shown."""
STARTS_PER_CONTEXT = 16
"""Training windows that begin within one context."""
SUMS_CONTEXT = 128
"""Tokens: about eight lines of the built-in text."""
TEXTS = "texts"
"""The folder in a set that its built-in text is in."""


@dataclass(frozen=True)
class Wish:
    """What was asked for."""

    src: str
    out: Path
    field: str
    tokenizer: str | None
    vocab_size: int
    context: int
    threads: int
    labelling: Labelling | None


def prepare_text(
    src: str,
    out: Path | None = None,
    *,
    field: str = "text",
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    context: int = 256,
    workers: int | None = None,
    labelling: Labelling | None = None,
) -> Iterator[Report]:
    """Prepare the text in file or folder `src`, or the data set `hf:name[:split]`, as set `out` (None: data/<name>).

    `tokenizer` is a tokenizer.json or `bytes` (None: byte-level BPE of at most `vocab_size` tokens, by default 4,096,
    fitted to the training part); `labelling` labels the tokens (None: nobody does). Raises UsageError for senseless
    options; DataError where there is no text or too little of it, where a tokenizer can't be read, or where another
    process is writing `out`; ResourceError where the disk is full.
    """
    if context < 1:
        raise UsageError("--context must be at least 1", "--context 256")
    if tokenizer is not None and vocab_size is not None:
        raise UsageError(
            "--vocab-size and --tokenizer exclude each other: only a tokenizer that is fitted here can have any size",
            f"--tokenizer {tokenizer}, or --vocab-size {vocab_size}",
        )
    if vocab_size is not None and vocab_size < ALPHABET:
        least = f"--vocab-size must be at least {ALPHABET}: every byte is a token"
        raise UsageError(least, f"--vocab-size {VOCABULARY}")
    if not src.startswith(HUB) and not os.path.exists(src):
        raise DataError(f"there is no {src}", "--src with a file or folder of text, or hf:name of a data set")
    out = out or Path("data") / _name(src)
    wish = Wish(src, out, field, tokenizer, vocab_size or VOCABULARY, context, workers or usable_cores(), labelling)
    with space_or_error(out), locked(out):
        yield from _prepare(wish, Kept(out / TOKENS))


def prepare_sums(
    out: Path | None = None,
    *,
    seed: int = 0,
    workers: int | None = None,
    context: int = SUMS_CONTEXT,
    lines: int | None = None,
) -> Iterator[Report]:
    """Write the built-in text of additions and sorting into `out`/texts (None: data/sums), then `prepare_text` by the
    byte; every digit of an answer is labelled with the work that it takes."""
    from ebwm_cli.data.sums import DIFFICULTY, LINES, label_tokens, write_sums

    out = out or Path("data") / "sums"
    with space_or_error(out), locked(out):
        began = time.monotonic()
        (out / TOKENS).mkdir(exist_ok=True)  # says whose folder this is, should writing be cut off
        fresh = write_sums(out / TEXTS, seed, lines or LINES)
        if fresh:
            yield Notice(notice=f"wrote {fresh:,} documents of sums in {time.monotonic() - began:.1f} s")
    labelling = Labelling(DIFFICULTY, label_tokens)
    yield from prepare_text(
        str(out / TEXTS), out, tokenizer=BYTES, context=context, workers=workers, labelling=labelling
    )


def _prepare(wish: Wish, kept: Kept) -> Iterator[Report]:
    began = time.monotonic()
    given = _given(wish.tokenizer)
    root, title = yield from _source(wish, kept)
    corpus = read_files(root, title, wish.out, wish.field)
    division = divide_text(corpus.places, corpus.lengths, wish.context)
    tokenizer = given or (yield from _fitted(wish, corpus, division, kept))
    building, work = new_building(wish.out), _Work(wish, corpus, division, tokenizer, kept)
    with TextWriter(building, wish.labelling.of if wish.labelling else None) as writer:
        for number in range(len(corpus.files)):
            writer.add(number, (yield from work.tokens_of(number)))
    yield from work.loss()
    windows, sample = _windows(building, wish.context, tokenizer)
    write_encoder(building, tokenizer)
    write_quarantine(building, corpus.refused)
    splits = {name: {**writer.counts[name], "windows": windows[name]} for name in SPLITS}
    commit(wish.out, building, _manifest(wish, corpus, division, tokenizer, splits))
    size, tokens = (sum(split[what] for split in splits.values()) for what in ("bytes", "states"))
    yield PrepareTextReport(
        out=str(wish.out),
        files=len(corpus.files),
        documents=len(corpus.lengths),
        bytes=size,
        tokens=tokens,
        bytes_per_token=size / tokens,
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer.name,
        windows=WindowCounts(**windows),
        context=wish.context,
        split_by=division.by,
        sample=sample,
        quarantined=[Quarantined(**each) for each in corpus.refused],
        reused_files=work.reused,
        seconds=time.monotonic() - began,
        bytes_per_second=work.rate,
    )


def _name(src: str) -> str:
    """What a set of `src` is called: the last part of its name, without extensions."""
    if src.startswith(HUB):
        return os.path.basename(name_and_split(src)[0].rstrip("/")) or "text"
    real = Path(src).resolve()
    return real.name if real.is_dir() else real.name.removesuffix(".gz").rpartition(".")[0] or real.name


def _source(wish: Wish, kept: Kept) -> Generator[Report, None, tuple[Path, str | None]]:
    """Where the text is, and its name where that is no file's; a data set is streamed into a file that is kept."""
    if not wish.src.startswith(HUB):
        return Path(wish.src), None
    copy = kept.path(f"{kept.key(wish.src, wish.field, *identity(wish.src, wish.out))}.jsonl")
    if not is_whole(copy):
        yield Notice(notice=f"streaming {wish.src}")
        stream(wish.src, wish.field, copy)
    elif not is_local(wish.src):
        again = f"for a fresh one, delete {kept.folder} and give the same --src again"
        yield Notice(notice=f"{wish.src} is the copy that an earlier run streamed; {again}")
    return copy, wish.src


def _given(tokenizer: str | None) -> Tokenizer | None:
    """The tokenizer that was asked for; None where one is to be fitted."""
    if tokenizer is None or tokenizer == BYTES:
        return byte_tokenizer() if tokenizer else None
    if not os.path.isfile(tokenizer):
        raise DataError(f"there is no tokenizer file {tokenizer}", HINT)
    return read_tokenizer(tokenizer)


def _fitted(wish: Wish, corpus: Corpus, division: TextDivision, kept: Kept) -> Generator[Report, None, Tokenizer]:
    """A tokenizer fitted to the training part, once."""
    numbers = range(len(corpus.files))
    parts = (part for n in numbers for part in (corpus.files[n].sha256, corpus.division_of(n, division)))
    name = f"bpe-{kept.key(*parts, wish.field, str(wish.vocab_size))}"
    data = kept.read(name)
    fitted = reread_bpe(data) if data else None
    if fitted is None:
        training = (each.text for n in numbers for each in corpus.stretches(n, division) if each.label == TRAIN)
        fitted = train_bpe((piece for text in training for piece in pieces(text)), wish.vocab_size, wish.threads)
        kept.keep(name, fitted.to_json())
    if fitted.vocab_size < wish.vocab_size:
        few = f"the training text gives only {fitted.vocab_size:,} tokens"
        yield Notice(notice=f"{few}; the vocabulary is that instead of {wish.vocab_size:,}")
    return fitted


class _Work:
    """Tokens of one file after the other, and how that gets on."""

    def __init__(self, wish: Wish, corpus: Corpus, division: TextDivision, tokenizer: Tokenizer, kept: Kept) -> None:
        self.reused = 0
        """Files whose tokens an earlier run kept."""
        self._corpus, self._division, self._tokenizer, self._kept = corpus, division, tokenizer, kept
        self._threads = wish.threads
        self._made = kept.key(tokenizer.to_json(), str(tokenizer.end_of_text), wish.field)
        self._done = self._tokens = self._fresh = self._changed = 0
        self._seconds, self._example = 0.0, ""
        self._new: set[str] = set()

    @property
    def rate(self) -> float:
        """Bytes tokenized in this run over the seconds spent on it; 0 where nothing was."""
        return self._fresh / self._seconds if self._seconds else 0.0

    def tokens_of(self, number: int) -> Generator[Report, None, FileTokens]:
        """The tokens of file `number`, kept for the next run."""
        file = self._corpus.files[number]
        part = self._corpus.division_of(number, self._division)
        name = f"tokens-{self._kept.key(self._made, file.sha256, part)}"
        data = self._kept.read(name)
        if data is None:
            stretches = self._corpus.stretches(number, self._division)
            found = yield from self._followed(file, tokenize(stretches, self._tokenizer, self._threads))
            self._kept.keep(name, found.to_bytes())
            self._new.add(name)
        else:
            found = FileTokens.from_bytes(data)
            self._tokens += len(found.tokens)
            self.reused += name not in self._new  # the same file twice is no file of an earlier run
        self._done += file.size
        self._changed += found.changed
        self._example = self._example or (found.example and f"{found.example} in {file.name}")
        yield self._progress(file, self._done)
        return found

    def _followed(self, file: TextFile, steps: Iterator[Advance | FileTokens]) -> Generator[Report, None, FileTokens]:
        """The tokens at the end of `steps`, with reports on the way."""
        read, began = 0, time.monotonic()
        for step in steps:
            self._seconds, began = self._seconds + time.monotonic() - began, time.monotonic()
            if isinstance(step, FileTokens):
                return step
            read += step.size
            self._fresh, self._tokens = self._fresh + step.size, self._tokens + step.tokens
            yield self._progress(file, self._done + min(read, file.size))
            began = time.monotonic()  # what is done with the report is no work of ours
        raise AssertionError("tokenize ends with its tokens")

    def loss(self) -> Iterator[Report]:
        """What the tokenizer lost of the text, if anything."""
        if self._changed:
            what = f"{self._changed:,} of {len(self._corpus.lengths):,} documents don't come back as they were"
            yield Notice(notice=f"this tokenizer loses something of the text: {what}, such as {self._example}")

    def _progress(self, file: TextFile, done: int) -> TextReport:
        return TextReport(
            file=file.name,
            bytes_done=done,
            bytes_total=self._corpus.size,
            tokens=self._tokens,
            bytes_per_second=self.rate,
            eta_seconds=(self._corpus.size - done) / self.rate if self.rate else 0.0,
        )


def _windows(building: Path, context: int, tokenizer: Tokenizer) -> tuple[dict[str, int], list[str]]:
    """Windows of each part, and how the training part begins. Raises DataError where a part holds none."""
    splits = {name: Split(building / name, name, context, _stride(context)) for name in SPLITS}
    windows = {name: len(split.windows()) for name, split in splits.items()}
    for name, split in splits.items():
        if not windows[name]:
            longest = max((last - first for first, last in split.segments), default=0)
            there = f"the {name} part has {longest:,} tokens in one piece"
            raise DataError(
                f"there is too little text: {there}, a window takes {context + 1}",
                f"--context {longest // 2}, or more text" if longest > 1 else "more text",
            )
    return windows, tokenizer.token_names(splits["train"].states[:SAMPLE])


def _stride(context: int) -> int:
    """Tokens between two training windows."""
    return max(1, context // STARTS_PER_CONTEXT)


def _manifest(
    wish: Wish, corpus: Corpus, division: TextDivision, tokenizer: Tokenizer, splits: dict[str, dict[str, int]]
) -> dict[str, object]:
    return {
        "format": FORMAT,
        "tool": f"ebwm {__version__}",
        "spec": StateSpec(modality="text", state_dim=tokenizer.vocab_size, context=wish.context).model_dump(),
        "sampling": {"field": wish.field},
        "interval": None,
        "train_stride": _stride(wish.context),
        "encoder": tokenizer.config(),
        "split_by": division.by,
        "splits": splits,
        "documents": [
            {"file": file.name, "sha256": file.sha256, "bytes": file.size, "documents": len(file.lengths)}
            for file in corpus.files
        ],
        "quarantined": len(corpus.refused),
        **({"labels": wish.labelling.labels.as_json()} if wish.labelling else {}),
    }
