"""Where answers end, and what follows an answer that has ended: no second end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from mismatch_lab.engines.tokenise import Tokeniser
from mismatch_lab.mini import checkpoint_dir

# As the three families write turns, with roles of a letter for short.
GPT_OSS = """{%- for m in messages -%}
<|start|>{{ m['role'] }}<|message|>{{ m['content'] }}
{%- if loop.last and m['role'] == 'assistant' and not add_generation_prompt -%}
<|return|>{%- else -%}<|end|>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"""
GEMMA = """{%- for m in messages -%}
<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}
{{ m['content'] }}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}<start_of_turn>model
{% endif -%}"""
GLM = """{%- for m in messages -%}<|{{ m['role'] }}|>{{ m['content'] }}{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"""
MARKS = {
    GPT_OSS: ["<|return|>", "<|call|>", "<|end|>", "<|start|>", "<|message|>"],
    GEMMA: ["<eos>", "<end_of_turn>", "<start_of_turn>"],
    GLM: ["<|endoftext|>", "<|user|>", "<|observation|>", "<|assistant|>"],
}
ENDS = {
    GPT_OSS: ["<|return|>", "<|call|>"],
    GEMMA: ["<eos>", "<end_of_turn>"],
    GLM: ["<|endoftext|>", "<|user|>", "<|observation|>"],
}


def checkpoint(folder: Path, template: str) -> Path:
    """The embedded model's letters with the marks, the template and the ends of a family."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint_dir())
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS[template]})
    tokenizer.eos_token = MARKS[template][0]
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    ends = tokenizer.convert_tokens_to_ids(ENDS[template])
    (folder / "config.json").write_text((checkpoint_dir() / "config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return folder


def marks(tokeniser: Tokeniser, *names: str) -> list[int]:
    return [tokeniser._tokenizer.convert_tokens_to_ids(name) for name in names]


def text(tokeniser: Tokeniser, ids: list[int]) -> str:
    return str(tokeniser._tokenizer.decode(ids))


@pytest.mark.parametrize("template", MARKS, ids=["gpt-oss", "gemma", "glm"])
def test_answers_end_where_vllm_stops(tmp_path: Path, template: str) -> None:
    tokeniser = Tokeniser(str(checkpoint(tmp_path, template)))
    assert tokeniser.eos_ids == set(marks(tokeniser, *ENDS[template]))
    assert tokeniser.end_id == marks(tokeniser, MARKS[template][0])[0]


def test_without_a_generation_config_the_model_says_where_answers_end(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, GEMMA)
    (folder / "generation_config.json").unlink()
    tokeniser = Tokeniser(str(folder))
    own = json.loads((folder / "config.json").read_text())["eos_token_id"]
    assert tokeniser.eos_ids == {own, *marks(tokeniser, "<eos>")}


def test_a_generation_config_of_another_folder_is_the_one_that_counts(tmp_path: Path) -> None:
    folder, other = checkpoint(tmp_path / "model", GEMMA), tmp_path / "other"
    other.mkdir()
    (other / "generation_config.json").write_text('{"eos_token_id": 7}')
    tokeniser = Tokeniser(str(folder), generation_config=str(other))
    assert tokeniser.eos_ids == {7, *marks(tokeniser, "<eos>")}


@pytest.mark.parametrize("end", ["<|return|>", "<|call|>", "<|end|>"])
def test_gpt_oss_gets_one_end_whichever_it_is(tmp_path: Path, end: str) -> None:
    tokeniser = Tokeniser(str(checkpoint(tmp_path, GPT_OSS)))
    follow_up = tokeniser.encode_follow_up("and now?", marks(tokeniser, end)[0])
    assert text(tokeniser, follow_up) == "<|start|>user<|message|>and now?<|end|><|start|>assistant"


@pytest.mark.parametrize("end", ["<end_of_turn>", "<eos>"])
def test_gemma_gets_one_end_and_keeps_the_line_break(tmp_path: Path, end: str) -> None:
    tokeniser = Tokeniser(str(checkpoint(tmp_path, GEMMA)))
    follow_up = tokeniser.encode_follow_up("and now?", marks(tokeniser, end)[0])
    expected = "\n<start_of_turn>user\nand now?<end_of_turn>\n<start_of_turn>model\n"
    assert text(tokeniser, follow_up) == expected


@pytest.mark.parametrize(
    ("template", "end"), [(GPT_OSS, "<|end|>"), (GEMMA, "<end_of_turn>")], ids=["gpt-oss", "gemma"]
)
def test_an_answer_that_was_cut_off_is_ended(tmp_path: Path, template: str, end: str) -> None:
    tokeniser = Tokeniser(str(checkpoint(tmp_path, template)))
    follow_up = tokeniser.encode_follow_up("and now?", last_id=9)
    assert text(tokeniser, follow_up).startswith(end)


def test_a_template_that_ends_no_answer_keeps_the_next_turns_mark(tmp_path: Path) -> None:
    # GLM-4 stops at <|user|>, which then begins the user's turn; <|endoftext|> begins none.
    tokeniser = Tokeniser(str(checkpoint(tmp_path, GLM)))
    for end, expected in {
        "<|user|>": "and now?<|assistant|>",
        "<|endoftext|>": "<|user|>and now?<|assistant|>",
        "<|observation|>": "<|user|>and now?<|assistant|>",
    }.items():
        follow_up = tokeniser.encode_follow_up("and now?", marks(tokeniser, end)[0])
        assert text(tokeniser, follow_up) == expected
