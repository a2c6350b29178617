"""Tokenizers give text back to the byte, count its bytes, travel as JSON, and are refused in words where broken."""

import json
import os
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_text import ODD
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from ebwm_cli.data import text_tokens
from ebwm_cli.data.encoders import load_encoder
from ebwm_cli.data.encoders.token_library import library_threads
from ebwm_cli.data.encoders.tokenizer import (
    ALPHABET,
    END_OF_TEXT,
    Tokenizer,
    byte_tokenizer,
    read_tokenizer,
    reread_bpe,
    train_bpe,
)
from ebwm_cli.data.text_intake import StretchText
from ebwm_cli.data.text_tokens import FileTokens, pieces, tokenize
from ebwm_cli.errors import DataError

STORY = "The quick brown fox jumps over the lazy dog. It's 1984, isn't it?\n  Twice  spaced,\n\nünd wörter…\n" * 20


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe(iter([STORY, *ODD]), 400, threads=1)


def metaspace(text: str = STORY, fallback: bool = False, vocab_size: int = 300) -> Inner:
    """As sentencepiece has it: a space is part of the word behind it, and the first word has one of its own."""
    inner = Inner(models.BPE(unk_token="<unk>", byte_fallback=fallback))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    inner.decoder = decoders.Sequence(list(steps))
    special = ["<unk>", "</s>", *([f"<0x{i:02X}>" for i in range(256)] if fallback else [])]
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    inner.train_from_iterator([text], trainer)
    described = json.loads(inner.to_str())  # bytes are ordinary tokens
    described["added_tokens"] = [each for each in described["added_tokens"] if each["content"] in special[:2]]
    return Inner.from_str(json.dumps(described))


def word_piece() -> Inner:
    words = {"[UNK]": 0, "[SEP]": 1, "the": 2, "cat": 3, "##s": 4, "sit": 5, ".": 6}
    inner = Inner(models.WordPiece(words, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner


def word_level(words: dict[str, int], special: tuple[str, ...] = ()) -> Inner:
    inner = Inner(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(list(special))
    return inner


def saved(inner: Inner, folder: Path) -> str:
    inner.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_come_back_to_the_byte(text: str, bpe: Tokenizer) -> None:
    for tokenizer in (bpe, byte_tokenizer()):
        tokens = tokenizer.encode(text)
        assert tokens.dtype == np.int32
        assert tokenizer.decode(tokens) == text
        assert tokenizer.token_lengths()[tokens].sum() == len(text.encode())
        assert b"".join(tokenizer.token_bytes(token) for token in tokens.tolist()) == text.encode()
        assert tokenizer.end_of_text not in tokens


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_comes_back_to_the_byte(text: str, bpe: Tokenizer) -> None:
    assert bpe.decode(bpe.encode(text)) == text


def test_bytes_are_tokens() -> None:
    tokenizer = byte_tokenizer()
    assert (tokenizer.vocab_size, tokenizer.latent_dim, tokenizer.end_of_text) == (ALPHABET, ALPHABET, 256)
    assert tokenizer.encode("Aü\x00").tolist() == list("Aü\x00".encode())
    assert tokenizer.token_bytes(256) == b""
    assert tokenizer.decode([0xC3, 256, 0x41]) == "\ufffdA"
    assert tokenizer.token_names([65, 256]) == ["A", END_OF_TEXT]


def test_special_words_in_a_text_are_text(bpe: Tokenizer, tmp_path: Path) -> None:
    text = f"a {END_OF_TEXT} b</s>"
    for tokenizer in (bpe, byte_tokenizer(), read_tokenizer(saved(metaspace(text * 9), tmp_path))):
        tokens = tokenizer.encode(text)
        assert tokenizer.end_of_text not in tokens
        assert tokenizer.decode(tokens) == text
        assert tokenizer.decode([*tokens, tokenizer.end_of_text]) == text


def test_a_fitted_vocabulary_is_the_same_for_any_number_of_threads_and_may_come_out_smaller(bpe: Tokenizer) -> None:
    assert train_bpe(iter([STORY, *ODD]), 400, threads=2).to_json() == bpe.to_json()
    assert bpe.vocab_size == 400
    small = train_bpe(iter(["ab"]), 4096, threads=1)
    assert small.vocab_size == ALPHABET + 1
    assert small.decode(small.encode("anything else")) == "anything else"


def test_the_library_is_told_its_threads_and_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "maybe")
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    for number, word in ((1, "false"), (3, "true")):
        with library_threads(number):
            assert (os.environ["TOKENIZERS_PARALLELISM"], os.environ["RAYON_NUM_THREADS"]) == (word, str(number))
        assert os.environ["TOKENIZERS_PARALLELISM"] == "maybe"
        assert "RAYON_NUM_THREADS" not in os.environ


def test_a_tokenizer_travels_and_damage_is_found(bpe: Tokenizer) -> None:
    config, tensors = json.loads(json.dumps(bpe.config())), bpe.tensors()
    again = load_encoder(config, tensors)
    assert isinstance(again, Tokenizer)
    assert (again.name, again.to_json(), again.config()) == ("bpe", bpe.to_json(), config)
    assert again.encode(STORY).tolist() == bpe.encode(STORY).tolist()
    for changes in ({"vocab_size": 7}, {"end_of_text": 400}, {"end_of_text": -1}, {"end_of_text": "x"}):
        with pytest.raises(DataError):
            Tokenizer.load({**config, **changes}, tensors)
    dice = random.Random(0)
    for broken in ({}, {"tokenizer": tensors["tokenizer"][:-1]}, {"tokenizer": np.zeros(3, np.uint8)}):
        with pytest.raises(DataError, match="damaged"):
            Tokenizer.load(config, broken)
    for _ in range(50):
        data = bytearray(bpe.to_json())
        data[dice.randrange(len(data))] ^= dice.randrange(1, 256)
        try:
            Tokenizer.load(config, {"tokenizer": np.frombuffer(data, np.uint8)})
        except DataError as error:
            assert error.hint  # noqa: PT017
    assert reread_bpe(b"{}") is None
    assert reread_bpe(b"\xff") is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "can't be read: No such file"),
        (b"\xff\xfe", "can't be read: it is not text"),
        (b"", "is no tokenizer.json: Expecting value"),
        (b'{"a": 1}', "is no tokenizer.json"),
        (b"[" * 100_000, "is no tokenizer.json"),
        (
            word_level({"[UNK]": 0, "a": 7}).to_str().replace("7", "1073741824").encode(),
            "is no tokenizer.json: its tokens go up to",
        ),
    ],
    ids=["absent", "binary", "empty", "other", "deep", "huge"],
)
def test_broken_files_are_refused_in_words(content: bytes | None, told: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(DataError, match=told) as error:
        read_tokenizer(str(tmp_path / "t.json"))
    assert "--tokenizer bytes" in error.value.hint
    assert "\n" not in error.value.message


def test_its_own_end_of_text_is_used_where_no_text_can_contain_it(tmp_path: Path) -> None:
    own = read_tokenizer(saved(metaspace(), tmp_path))
    assert (own.name, own.end_of_text, own.vocab_size) == ("file", 1, metaspace().get_vocab_size())
    ordinary = read_tokenizer(saved(word_level({"[UNK]": 0, "</s>": 1, "a": 2}), tmp_path))
    assert (ordinary.end_of_text, ordinary.vocab_size) == (3, 4)
    written = read_tokenizer(saved(word_level({"[UNK]": 0, "</s>": 1}, special=("</s>",)), tmp_path))
    assert (written.end_of_text, written.vocab_size) == (2, 3)
    named = read_tokenizer(saved(word_level({"[UNK]": 0, END_OF_TEXT: 1}), tmp_path))
    assert (named.end_of_text, named.token_names([2])) == (2, ["<|endoftext2|>"])
    for tokenizer in (own, ordinary, written, named):
        text = f"a </s> {END_OF_TEXT} </s>"
        assert tokenizer.end_of_text not in tokenizer.encode(text)
        again = Tokenizer.load(tokenizer.config(), tokenizer.tensors())
        assert again.end_of_text == tokenizer.end_of_text
        assert again.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_vocabularies_with_holes_reach_to_their_highest_token(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(saved(word_level({"[UNK]": 0, "a": 9}), tmp_path))
    assert tokenizer.vocab_size == 10
    assert tokenizer.encode("a").tolist() == [9]
    assert len(tokenizer.token_lengths()) == 10
    assert tokenizer.token_bytes(5) == b""
    assert tokenizer.token_names([5]) == [""]
    assert Tokenizer.load(tokenizer.config(), tokenizer.tensors()).vocab_size == 10
    with pytest.raises(DataError, match="has holes and no end of text"):
        read_tokenizer(saved(word_level({"[UNK]": 0, "a": 2}), tmp_path))


@pytest.mark.parametrize("fallback", [False, True])
def test_lengths_of_tokens_with_a_space_before_them_sum_to_the_text(fallback: bool, tmp_path: Path) -> None:
    tokenizer = read_tokenizer(saved(metaspace(fallback=fallback, vocab_size=600), tmp_path))
    text = STORY.replace("  ", " ") + ("🦊 and 漢字" if fallback else "")
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert not tokenizer.byte_level
    assert tokenizer.token_lengths()[tokens].sum() == len(text.encode()) + 1  # the space before the first word
    assert tokenizer.token_lengths()[tokens][1:].sum() == len(text.encode()) - len("The")
    assert tokenizer.token_names(tokenizer.encode("The fox")) == [" The", " fox"]


def test_lengths_of_words_in_pieces_are_what_they_add_behind_others(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(saved(word_piece(), tmp_path))
    tokens = tokenizer.encode("the cats sit.")
    assert tokenizer.token_lengths()[tokens].tolist() == [4, 4, 1, 4, 1]
    assert tokenizer.decode(tokens) == "the cats sit."


def test_a_normalizer_takes_no_bytes_from_tokens(tmp_path: Path) -> None:
    inner = Inner.from_str(train_bpe(iter([STORY]), 300, 1).to_json().decode())
    inner.normalizer = normalizers.NFC()
    tokenizer = read_tokenizer(saved(inner, tmp_path))
    text = "日本 ünd"
    assert tokenizer.byte_level
    assert tokenizer.token_lengths()[tokenizer.encode(text)].sum() == len(text.encode())


def test_added_words_stand_for_themselves(tmp_path: Path) -> None:
    inner = Inner.from_str(byte_tokenizer().to_json().decode())
    inner.add_tokens(["née", "    "])
    tokenizer = read_tokenizer(saved(inner, tmp_path))
    text = "a née b    c"
    assert len(tokenizer.encode(text)) == 7
    assert tokenizer.decode(tokenizer.encode(text)) == text


# ------------------------------------------------------------------------------------------- pieces


LINES = st.lists(
    st.sampled_from(["word", "it's", " ", "  ", "\n", "\n\n", "\r\n", "\t", "12", "…!", "ü", "字", "\u00a0", "'"])
)


@settings(max_examples=300, deadline=None)
@given(LINES)
def test_pieces_are_the_text_and_their_tokens_those_of_the_whole(bpe: Tokenizer, words: list[str]) -> None:
    text = "".join(words)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(text_tokens, "PIECE", 12)
        parts = list(pieces(text))
    assert "".join(parts) == text
    assert all(0 < len(part) <= 12 for part in parts)
    cut = [token for part in parts for token in bpe.encode(part).tolist()]
    if all(b[0] in " \n" and a[-1].strip() and b[1:2].strip() for a, b in pairwise(parts)):  # not cut in need
        assert cut == bpe.encode(text).tolist()
    assert bpe.decode(cut) == text


def test_long_ordinary_text_is_tokenized_as_in_one_piece(bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_tokens, "PIECE", 90)
    (found,) = (step for step in tokenize(iter([whole_of(STORY)]), bpe, 2) if isinstance(step, FileTokens))
    assert found.tokens.tolist() == [*bpe.encode(STORY).tolist(), bpe.end_of_text]
    assert found.sizes.tolist() == [len(STORY.encode())]
    assert (found.changed, found.example) == (0, "")


def whole_of(text: str, **facts: Any) -> StretchText:
    return StretchText(**{"document": 0, "label": 0, "begins": True, "ends": True, "text": text, **facts})


def test_what_a_tokenizer_loses_is_counted_by_document_with_an_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_tokens, "PIECE", 40)
    tokenizer = read_tokenizer(saved(metaspace(vocab_size=600), tmp_path))
    plain = "It's 1984, isn't it? The quick brown fox jumps over the lazy dog."
    stretches = [whole_of(plain), whole_of(plain + " 🦊" + plain, document=1), whole_of(" " + plain, document=2)]
    *_, found = tokenize(iter(stretches), tokenizer, 1)
    assert isinstance(found, FileTokens)
    assert found.changed == 2  # cuts inside a text lose no space, its beginning does
    assert found.example == '"zy dog. 🦊It\'s" as "zy dog. It\'s"'
    again = FileTokens.from_bytes(found.to_bytes())
    assert again.to_bytes() == found.to_bytes()
    assert (again.changed, again.example) == (found.changed, found.example)
    assert again.tokens.tolist() == found.tokens.tolist()
