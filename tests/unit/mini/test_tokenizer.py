from typing import Any

import pytest

pytest.importorskip("transformers")

from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.mini.problems import generate

ODD_TEXTS = (
    "",
    " two  spaces ",
    "tab\tnewline\n\r\n",
    "Zürich, 東京, Ελλάδα, عربى",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \u200b\ufeff",
    "e\u0301 is not é",
    "\x00\x01\x7f\U0010ffff",
    "١٢٣ ½ ²",
    "it's 1,234.50 isn't",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint_dir())


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_any_text_survives(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=True)) == text


def test_vocabulary_is_a_multiple_of_64_and_holds_every_byte(tokenizer: Any) -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    assert len(tokenizer) % 64 == 0
    alphabet = set(ByteLevel.alphabet())
    assert len(alphabet) == 256
    assert alphabet <= set(tokenizer.get_vocab())
    assert tokenizer.unk_token is None


def test_digits_are_tokens_of_their_own(tokenizer: Any) -> None:
    ids = tokenizer.encode("Ben has 1234.")
    assert [tokenizer.decode([i]) for i in ids] == ["Ben", " has", " ", "1", "2", "3", "4", "."]


def test_problems_take_few_tokens(tokenizer: Any) -> None:
    # The longest conversation of one problem, 48 + 64 tokens, is far longer than the window of 32.
    lengths = [len(tokenizer.encode(p.question)) for p in generate(300, seed=0)]
    assert 15 < sum(lengths) / len(lengths) < 40


def test_chat_template_writes_every_role(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "tool", "content": " ok\n"},
    ]
    expected = (
        "<|system|>Be brief.<|end|><|user|>2 + 2?<|end|><|assistant|>4<|end|><|tool|> ok\n<|end|>"
    )
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == expected
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == expected + "<|assistant|>"
    # Role markers and the end of a turn are single tokens, and the latter is EOS.
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids.count(tokenizer.eos_token_id) == 4
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|system|>")


def test_unknown_role_is_an_error(tokenizer: Any) -> None:
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match="unknown role developer"):
        tokenizer.apply_chat_template([{"role": "developer", "content": ""}], tokenize=False)
