"""Documents out of files of every kind, and what is said about files that are none."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebwm_cli.data import text_hub
from ebwm_cli.data.text import MOST_FLAWS, Flaw, documents, find_texts, kind_of, why_not
from ebwm_cli.data.text_hub import identity, is_local, is_whole, name_and_split, stream
from ebwm_cli.errors import DataError

ODD = [
    "plain",
    "Ünïcödé – naïve",
    "العربية עברית हिन्दी",
    "漢字かな交じり文。",
    "🦊👩‍👩‍👧🏳️‍🌈",
    "e\u0301 a\u0308 o\u0338",  # combining marks
    "lone\rcarriage\r\nreturns\n\r",
    "nul\x00 and \x1b[31m control \x7f",
    "\u2028 \u2029 \x85 \u00a0 no line ends for us",
    "<|endoftext|> is text",
    " spaces  before and after \n\n",
]


def texts(path: Path, field: str = "text") -> list[str]:
    return [each for each in documents(path, field) if isinstance(each, str)]


def flaws(path: Path, field: str = "text") -> list[tuple[str, str]]:
    return [(each.place, each.reason) for each in documents(path, field) if isinstance(each, Flaw)]


def bytes_column(rows: list[bytes | None]) -> pa.Array:
    """A column that claims to be text, whatever its bytes."""
    raw = pa.array(rows, pa.binary())
    return pa.StringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("name", ["a.txt", "a.MD", "a.txt.gz", "a.md.GZ"])
def test_a_plain_file_is_one_document_to_the_byte(name: str, text: str, tmp_path: Path) -> None:
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.lower().endswith("gz") else data)
    assert list(documents(tmp_path / name, "text")) == [text]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_line_of_json_is_a_document(name: str, ascii_only: bool, tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "other": 1}, ensure_ascii=ascii_only) for text in ODD]
    data = ("\ufeff" + "\n\n".join(lines)).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert list(documents(tmp_path / name, "text")) == ODD


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_row_of_parquet_is_a_document(kind: pa.DataType, tmp_path: Path) -> None:
    table = pa.table({"body": pa.array(ODD * 100).cast(kind), "text": pa.array(range(100 * len(ODD)))})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    assert list(documents(tmp_path / "a.parquet", "body")) == ODD * 100
    assert flaws(tmp_path / "a.parquet") == [("", "has no column 'text' of text (columns: body, text)")]
    assert "has no column 'absent'" in flaws(tmp_path / "a.parquet", "absent")[0][1]


def test_empty_documents_are_passed_over_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, data in {"a.txt": b"", "b.txt": b" \n\t\r\n", "c.txt": b"\xef\xbb\xbf"}.items():
        (tmp_path / name).write_bytes(data)
        assert list(documents(tmp_path / name, "text")) == []
    (tmp_path / "d.txt").write_bytes(b"\xef\xbb\xbfx\xef\xbb\xbf")
    assert texts(tmp_path / "d.txt") == ["x\ufeff"]
    (tmp_path / "e.jsonl").write_text('{"text": ""}\n{"text": " "}\n{"text": "x"}')
    assert list(documents(tmp_path / "e.jsonl", "text")) == ["x"]


@pytest.mark.parametrize(
    ("data", "offset"),
    [(b"abc\xff", "3"), (b"\xef\xbb\xbfabc\xff", "6"), ("é".encode("utf-16"), "0"), (b"x" * 5000 + b"\xc3", "5,000")],
)
def test_bytes_that_are_no_utf8_are_placed(data: bytes, offset: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    assert list(documents(tmp_path / "a.txt", "text")) == [Flaw("", f"no UTF-8 at byte {offset}")]


def test_bad_lines_are_named_and_the_others_used(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one"}', b"\xff", b"no json", b'["text"]', b'{"text": 5}', b'{"text": null}', b'{"body": "x"}',
        b'{"text": "\\ud800"}', b"[" * 100_000, b'{"text": "two"}',
    ]  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    assert texts(tmp_path / "a.jsonl") == ["one", "two"]
    lacking = "has no text under 'text'"
    assert flaws(tmp_path / "a.jsonl") == [
        (":2", "no UTF-8 at byte 0"), (":3", "no JSON"), (":4", lacking), (":5", lacking), (":6", lacking),
        (":7", lacking), (":8", "has half a surrogate pair, which is no text"), (":9", "no JSON"),
    ]  # fmt: skip


def test_bad_rows_are_named_and_the_others_used(tmp_path: Path) -> None:
    column = bytes_column([b"one", None, b"ab\xff\xfe", "ü".encode(), b"\xef\xbb\xbfz"])
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["one", "ü", "\ufeffz"]
    assert flaws(tmp_path / "a.parquet") == [(":2", "has no text under 'text'"), (":3", "no UTF-8 at byte 2")]


def test_of_many_bad_lines_or_rows_some_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("bad\n" * 3000 + '{"text": "good"}\n')
    pq.write_table(pa.table({"text": pa.array([None] * 3000 + ["good"], pa.string())}), tmp_path / "b.parquet")
    for name in ("a.jsonl", "b.parquet"):
        assert texts(tmp_path / name) == ["good"]
        told = flaws(tmp_path / name)
        assert len(told) == MOST_FLAWS + 1
        assert told[-1] == ("", f"{3000 - MOST_FLAWS:,} more like these")


def test_of_a_cut_file_what_could_be_read_is_kept_and_both_is_told(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"line {i} {os.urandom(40).hex()}"}) + "\n" for i in range(2000)).encode()
    packed = gzip.compress(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) * 2 // 3])
    kept = texts(tmp_path / "a.jsonl.gz")
    assert 0 < len(kept) < 2000
    ((place, reason),) = flaws(tmp_path / "a.jsonl.gz")
    assert place == ""
    assert reason.startswith("the rest: cannot be read to its end (Compressed file ended")
    assert reason.endswith(f"the {len(kept):,} documents before it are kept")
    (tmp_path / "b.txt.gz").write_bytes(packed[:-9])
    assert texts(tmp_path / "b.txt.gz") == []
    assert flaws(tmp_path / "b.txt.gz")[0][1].startswith("cannot be read to its end (Compressed file ended")
    for data in (b"", b"no gzip at all", packed[:5], packed[:30] + b"\0\xff" * 30):
        (tmp_path / "c.txt.gz").write_bytes(data)
        assert texts(tmp_path / "c.txt.gz") == []


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_flip_and_no_cut_of_a_parquet_file_stops_a_run(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.parquet"
    pq.write_table(pa.table({"text": [f"row {i} ü" for i in range(50)]}), path, row_group_size=20)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    for found in documents(path, "text"):
        assert found


def test_files_are_found_in_the_order_of_their_names_without_hidden_ones_and_the_set_itself(tmp_path: Path) -> None:
    names = ["b.txt", "a/z.md", "a/deep/er/x.jsonl.gz", "c.parquet", "ä.txt", "no.csv", "x.parquet.gz", "README"]
    for name in [*names, ".hidden.txt", ".git/a.txt", "out/train/a.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [str(path.relative_to(tmp_path)) for path in find_texts(tmp_path, outside=tmp_path / "out")]
    assert found == ["a/deep/er/x.jsonl.gz", "a/z.md", "b.txt", "c.parquet", "ä.txt"]
    assert find_texts(tmp_path / "README") == [tmp_path / "README"]
    assert kind_of(Path("x.parquet.gz")) is None
    assert (
        why_not(tmp_path / "README", tmp_path / "README")
        == "no kind of text: one of .txt, .md, .jsonl, .parquet, or .gz of them"
    )


def test_links_and_closed_folders_are_found_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    (source / "in").mkdir(parents=True)
    (source / "closed").mkdir()
    (source / "in" / "a.txt").write_text("x")
    (tmp_path / "secret.txt").write_text("x")
    (source / "b.txt").symlink_to("in/a.txt")
    (source / "out.txt").symlink_to(tmp_path / "secret.txt")
    (source / "lost.txt").symlink_to("nowhere")
    (source / "loop.txt").symlink_to("loop.txt")
    (source / "linked").symlink_to("in")
    (source / "away").symlink_to(tmp_path)
    os.mkfifo(source / "pipe.txt")
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    told = {path.relative_to(source).as_posix(): why_not(path, source) for path in find_texts(source)}
    outside, folder = "link that leads outside the source folder", "folder that is a link or can't be entered"
    nowhere = "link that leads nowhere"
    assert told == {
        "b.txt": None, "in/a.txt": None, "out.txt": outside, "lost.txt": nowhere, "loop.txt": nowhere,
        "linked": folder, "away": outside, "pipe.txt": "not an ordinary file", "closed": folder,
    }  # fmt: skip


def rows_of(path: Path) -> list[object]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_a_local_data_set_is_streamed_and_known_by_its_files(tmp_path: Path) -> None:
    folder, out = tmp_path / "set", tmp_path / "set" / "out"
    out.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in [*ODD, None]))
    (folder / "test.jsonl").write_text('{"text": "held out", "n": 2}\n')
    name = f"hf:{folder}"
    assert is_local(name)
    assert name_and_split("hf:a/b:test[:5]") == ("a/b", "test[:5]")
    stream(name, "text", tmp_path / "a.jsonl")
    assert rows_of(tmp_path / "a.jsonl") == [*ODD, None]
    stream(f"{name}:test", "text", tmp_path / "b.jsonl")
    assert rows_of(tmp_path / "b.jsonl") == ["held out"]
    assert not (tmp_path / "a.jsonl").exists()  # copies of what was are not kept
    stream(f"{name}:test", "n", tmp_path / "n.jsonl")
    with pytest.raises(DataError, match=r"has no 'body' \(it has text, n\)") as error:
        stream(name, "body", tmp_path / "c.jsonl")
    assert "--field" in error.value.hint
    with pytest.raises(DataError, match="can't be loaded"):
        stream(f"{name}:absent", "text", tmp_path / "c.jsonl")
    assert not (tmp_path / "c.jsonl").exists()
    before = identity(name, out)
    (out / "manifest.json").write_text("{}")
    (folder / ".hidden").write_text("x")
    assert identity(name, out) == before
    (folder / "test.jsonl").write_text('{"text": "held OUT", "n": 2}\n')
    assert identity(name, out) != before != identity(f"{name}:test", out)


def test_a_kept_copy_is_used_only_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [{"text": "one"}, {"text": 5}, {"text": "\ud800"}])
    copy = tmp_path / "a.jsonl"
    assert not is_whole(copy)
    stream("hf:some/name", "text", copy)
    assert is_whole(copy)
    assert identity("hf:some/name", tmp_path) == ["some/name", "train"]
    assert texts(copy) == ["one"]
    assert [place for place, _ in flaws(copy)] == [":2", ":3"]
    copy.write_bytes(copy.read_bytes().replace(b"one", b"two"))
    assert not is_whole(copy)


def test_whatever_the_hub_raises_is_one_error_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def far(*_: object, **__: object) -> None:
        raise ConnectionError("couldn't reach it\nand more")

    monkeypatch.setattr(datasets, "load_dataset", far)
    with pytest.raises(DataError, match=r"^hf:a/b can't be loaded: couldn't reach it$") as error:
        text_hub.stream("hf:a/b", "text", tmp_path / "a.jsonl")
    assert error.value.hint.startswith("--src hf:name:split")
