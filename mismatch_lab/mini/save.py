"""Write mini-gpt-oss as an ordinary Hugging Face checkpoint in bfloat16."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save_checkpoint(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> None:
    """Save weights (rounded to bfloat16), configuration and tokenizer into `folder`.

    `model` itself is left as it is.
    """
    import torch
    from transformers import GenerationConfig

    # A tied head is the embedding's storage under another name: vLLM's Gemma refuses a copy of it.
    first = {value.data_ptr(): name for name, value in reversed(model.state_dict().items())}
    rounded = {
        name: value.to(torch.bfloat16)
        for name, value in model.state_dict().items()
        if first[value.data_ptr()] == name
    }
    # Neutral: an engine that reads sampling defaults from here must not truncate.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder, state_dict=rounded)
    # safetensors makes its file readable by its owner only, and a package must not.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    _rewrite(folder / "config.json", {"dtype": "bfloat16"})
    # Names that every version of transformers since 4.40 can read.
    extra = json.loads((folder / "tokenizer_config.json").read_text())["extra_special_tokens"]
    _rewrite(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": extra},
        drop=("extra_special_tokens", "backend"),
    )


def _rewrite(path: Path, changes: dict[str, object], drop: tuple[str, ...] = ()) -> None:
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps({**kept, **changes}, indent=2, sort_keys=True) + "\n")
