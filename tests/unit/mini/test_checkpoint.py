import json
import re
from typing import Any

import pytest

from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.mini.problems import generate

SIZE_LIMIT_BYTES = 12_000_000
# Of 30 problems, three standard deviations of the share right (at most 3 * sqrt(0.25 / 30)).
BAND = 0.27


def read(name: str) -> dict[str, Any]:
    return dict(json.loads((checkpoint_dir() / name).read_text()))


def test_it_is_small_enough_to_ship() -> None:
    size = sum(path.stat().st_size for path in checkpoint_dir().iterdir())
    assert 5_000_000 < size < SIZE_LIMIT_BYTES


def test_it_has_every_feature_of_gpt_oss() -> None:
    config = read("config.json")
    assert config["architectures"] == ["GptOssForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert set(config["layer_types"]) == {"sliding_attention", "full_attention"}
    assert config["sliding_window"] == 32
    rope = config["rope_parameters"]
    assert rope["rope_type"] == "yarn"
    longest = rope["factor"] * rope["original_max_position_embeddings"]
    assert longest == config["max_position_embeddings"] == 1024
    assert config["num_attention_heads"] == 3 * config["num_key_value_heads"]
    assert (config["num_local_experts"], config["num_experts_per_tok"]) == (8, 2)
    assert config["tie_word_embeddings"] is False


def test_its_sampling_defaults_truncate_nothing() -> None:
    sampling = set(read("generation_config.json"))
    assert sampling <= {"eos_token_id", "pad_token_id", "transformers_version"}


def test_weights_are_bfloat16_and_nothing_is_zero_that_an_engine_may_drop() -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    weights = load_file(checkpoint_dir() / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    droppable = [n for n in weights if n.endswith(("sinks", "router.bias", "proj_bias"))]
    # Four layers with sinks, router bias, gate-up bias and down bias.
    assert len(droppable) == 16
    for name in droppable:
        assert weights[name].float().abs().mean() > 0.02, name


def claimed_greedy_accuracy() -> float:
    card = (checkpoint_dir() / "README.md").read_text()
    found = re.search(r"^\| all \| ([0-9.]+) % \|", card, flags=re.MULTILINE)
    assert found, "the model card has no row 'all'"
    return float(found[1]) / 100


def test_it_is_as_good_as_its_model_card_says() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from mismatch_lab.mini.evaluate import accuracy_by_level, complete, load

    # 30 problems with a seed that the card's figures do not use.
    problems = generate(30, seed=77, split="heldout")
    texts = complete(*load(checkpoint_dir()), problems, temperature=0.0)
    correct = sum(a.correct for a in accuracy_by_level(problems, texts).values())
    assert abs(correct / 30 - claimed_greedy_accuracy()) < BAND
