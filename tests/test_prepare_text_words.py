"""`ebwm prepare text` as typed: sources, tokenizers, what is said, hints and exit codes."""

import json
import os
import re
from pathlib import Path

import pytest
from test_prepare_text import SMALL, WORDS, notices, prepare, prose, reports
from test_tokenizer import metaspace, saved

from ebwm_cli.cli import run
from ebwm_cli.commands.prepare_text import prepare_text
from ebwm_cli.data.encoders.tokenizer import Tokenizer
from ebwm_cli.data.store import open_set
from ebwm_cli.data.writer import locked
from ebwm_cli.errors import DataError, UsageError
from ebwm_cli.run.report_text import PrepareTextReport


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("book") / "book.txt"
    path.write_text(prose(0, 1500))
    return path


def fails(src: Path | str, out: Path, **options: object) -> DataError:
    with pytest.raises(DataError) as error:
        reports(src, out, **options)
    assert error.value.hint
    return error.value


def test_text_that_names_the_end_of_text_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(prose(1, 900).replace("fox", "<|endoftext|>"))
    prepare(tmp_path / "a.txt", tmp_path / "set")
    prepared = open_set(tmp_path / "set")
    assert isinstance(prepared.encoder, Tokenizer)
    train = prepared.split("train").states
    assert prepared.encoder.end_of_text not in train
    assert "<|endoftext|>" in prepared.encoder.decode(train)
    assert prepared.split("test").states[-1] == prepared.encoder.end_of_text


def test_a_small_text_gives_a_small_vocabulary_and_says_so(book: Path, tmp_path: Path) -> None:
    told = reports(book, tmp_path / "set", vocab_size=None)
    end = told[-1]
    assert isinstance(end, PrepareTextReport)
    assert 257 < end.vocab_size < 4096
    assert notices(told) == [
        f"the training text gives only {end.vocab_size:,} tokens; the vocabulary is that instead of 4,096"
    ]
    assert notices(reports(book, tmp_path / "set", vocab_size=None)) == notices(told)


def test_bytes_and_files_tokenize_too_and_what_a_file_loses_is_said(book: Path, tmp_path: Path) -> None:
    end = prepare(book, tmp_path / "bytes", tokenizer="bytes", vocab_size=None)
    assert (end.vocab_size, end.tokenizer) == (257, "bytes")
    assert end.tokens == end.bytes + 1  # the end of the only document
    file = saved(metaspace("\n ".join(WORDS).replace("🦊", "") * 9), tmp_path)
    told = reports(book, tmp_path / "file", tokenizer=file, vocab_size=None)
    end = told[-1]
    assert isinstance(end, PrepareTextReport)
    assert end.tokenizer == "file"
    (notice,) = notices(told)
    assert re.fullmatch(
        r"this tokenizer loses something of the text: 1 of 1 documents don't come back as they were, such as "
        r"'.*🦊.*' as '[^🦊]*' in book.txt",
        notice,
    )
    assert notices(reports(book, tmp_path / "file", tokenizer=file, vocab_size=None)) == [notice]
    loaded = open_set(tmp_path / "file").encoder
    assert isinstance(loaded, Tokenizer)
    assert loaded.encode("the fox").tolist() == end_of(file).encode("the fox").tolist()
    for missing in ("absent.json", str(tmp_path), "x" * 5000):
        assert "there is no tokenizer file" in fails(book, tmp_path / "no", tokenizer=missing, vocab_size=None).message
    assert "is no tokenizer.json" in fails(book, tmp_path / "no", tokenizer=str(book), vocab_size=None).message


def end_of(file: str) -> Tokenizer:
    from ebwm_cli.data.encoders.tokenizer import read_tokenizer

    return read_tokenizer(file)


def test_a_local_data_set_is_streamed_again_only_when_it_has_changed(tmp_path: Path) -> None:
    folder, out = tmp_path / "tales", tmp_path / "set"
    folder.mkdir()
    rows = [json.dumps({"text": prose(number, 60)}) + "\n" for number in range(30)]
    (folder / "train.jsonl").write_text("".join([*rows, '{"text": null}\n']))
    src = f"hf:{folder}"
    told = reports(src, out)
    assert notices(told) == [f"streaming {src}"]
    end = told[-1]
    assert isinstance(end, PrepareTextReport)
    assert (end.documents, end.files) == (30, 1)
    assert [(each.file, each.reason) for each in end.quarantined] == [(f"{src}:31", "has no text under 'text'")]
    again = reports(src, out)
    assert notices(again) == []
    assert again[-1].model_dump()["reused_files"] == 1
    (folder / "train.jsonl").write_text("".join(rows * 2))
    told = reports(src, out)
    assert notices(told) == [f"streaming {src}"]
    assert told[-1].model_dump()["documents"] == 60
    assert len(list((out / ".tokens").glob("*.jsonl"))) == 1


def test_of_a_far_data_set_the_copy_is_used_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [{"text": prose(number, 60)} for number in range(30)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    assert notices(reports("hf:some/tales", tmp_path / "set")) == ["streaming hf:some/tales"]
    (notice,) = notices(reports("hf:some/tales", tmp_path / "set"))
    assert notice.startswith("hf:some/tales is the copy that an earlier run streamed; for a fresh one, delete ")
    copy = next((tmp_path / "set" / ".tokens").glob("*.jsonl"))
    copy.write_bytes(copy.read_bytes()[:-30])
    assert notices(reports("hf:some/tales", tmp_path / "set")) == ["streaming hf:some/tales"]


def test_too_little_text_is_told_with_advice_that_works(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text(prose(0, 400))
    error = fails(source, tmp_path / "set", context=256)
    assert "there is too little text" in error.message
    advised = re.match(r"--context (\d+), or more text", error.hint)
    assert advised
    prepare(source, tmp_path / "set", context=int(advised[1]))
    source.write_text("tiny")
    assert fails(source, tmp_path / "set").hint == "more text"


def test_where_a_part_has_too_few_tokens_the_longest_piece_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a" * 3000 + " ")
    file = tmp_path / "t.json"
    long = metaspace("a" * 3000 + " " + prose(0, 90), vocab_size=400)
    long.save(str(file))
    error = fails(tmp_path / "a.txt", tmp_path / "set", context=40, tokenizer=str(file), vocab_size=None)
    assert re.search(r"the (val|test|train) part has \d+ tokens in one piece, a window takes 41", error.message)


def test_sources_that_hold_nothing(tmp_path: Path) -> None:
    assert "there is no" in fails(tmp_path / "absent", tmp_path / "set").message
    assert "there is no" in fails("x" * 5000, tmp_path / "set").message
    assert not (tmp_path / "set").exists()
    (tmp_path / "empty").mkdir()
    assert "there is no text in" in fails(tmp_path / "empty", tmp_path / "set").message
    (tmp_path / "empty" / "a.txt").write_bytes(b"\xff")
    error = fails(tmp_path / "empty", tmp_path / "set")
    assert "can be used (a.txt: no UTF-8 at byte 0)" in error.message
    assert "--field" in error.hint


def test_one_writer_at_a_time_and_no_folder_of_others(book: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    assert "is no prepared set" in fails(book, tmp_path / "letters").message
    with locked(tmp_path / "set"):
        assert "another ebwm prepare is writing" in fails(book, tmp_path / "set").message


def test_a_file_that_changes_meanwhile_stops_the_run(book: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in "ab":
        (source / f"{name}.txt").write_text(name + book.read_text())
    steps = prepare_text(str(source), tmp_path / "set", **SMALL)  # type: ignore[arg-type]
    next(steps)
    (source / "b.txt").write_text("something else")
    with pytest.raises(DataError, match=r"b.txt was changed while it was read"):
        list(steps)
    assert not (tmp_path / "set" / "manifest.json").exists()


@pytest.mark.parametrize(
    "options",
    [{"context": 0}, {"vocab_size": 256}, {"tokenizer": "bytes"}, {"tokenizer": "a.json", "vocab_size": 4096}],
    ids=str,
)
def test_senseless_options_are_usage_errors(options: dict, book: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        reports(book, tmp_path / "set", **options)
    assert error.value.hint
    assert not (tmp_path / "set").exists()


def test_as_typed_with_json(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["prepare", "text", "--src", str(book), "--vocab-size", "300", "--context", "8", "--workers", "1", "--json"]
    assert run(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == set(PrepareTextReport.model_fields)
    assert (told["out"], told["vocab_size"], told["split_by"]) == ("data/book", 300, "block")
    assert open_set(Path("data/book")).manifest["sampling"] == {"field": "text"}


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["--src", "absent"], 4, "--src with a file or folder"),
        (["--src", "book.txt", "--tokenizer", "bytes", "--vocab-size", "300"], 2, "--tokenizer bytes, or"),
        (["--src", "book.txt", "--vocab-size", "20"], 2, "--vocab-size 4096"),
        (["--src", "book.txt", "--vocab-size", "0"], 2, "ebwm prepare text --help"),
        (["--src", "book.txt", "--tokenizer", "absent.json"], 4, "--tokenizer bytes"),
        (["--src", "book.txt", "--context", "5000"], 4, "--context"),
        ([], 2, "ebwm prepare text --help"),
    ],
    ids=str,
)
def test_exit_codes_and_hints(
    words: list[str], code: int, hint: str, book: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(book.parent)
    assert run(["prepare", "text", *words]) == code
    assert hint in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif("EBWM_TEXT" not in os.environ, reason="EBWM_TEXT names no folder of real text")
def test_real_text(tmp_path: Path) -> None:
    source = Path(os.environ["EBWM_TEXT"])
    end = prepare(source, tmp_path / "set", vocab_size=2048, context=256)
    assert end.quarantined == []
    assert end.bytes_per_token > 2.5
    prepared = open_set(tmp_path / "set")
    assert isinstance(prepared.encoder, Tokenizer)
    text = sorted(source.glob("*.txt"))[0].read_bytes().decode().removeprefix("\ufeff")
    train = prepared.split("train").states[:60_000]
    assert text.startswith(prepared.encoder.decode(train))
    assert prepared.encoder.encode(text[:400_000])[:60_000].tolist() == train.tolist()  # over the cuts of some pieces
