"""TRL's own GRPOTrainer, watched by one line, with and without a fault in the trainer.

    pip install trl
    python examples/hooks/trl_grpo.py --out runs/trl
    python examples/hooks/trl_grpo.py --out runs/trl-sinks --drop-sinks

Runs on a CPU in a minute: the embedded GPT-OSS of 3 million parameters, some steps of GRPO on
generated word problems. The engine is a program of its own, transformers' `generate` on a second
copy of the model, and gets the trainer's weights before each roll-out. With `--drop-sinks` the
trainer's attention kernel knows nothing of attention sinks, as FlashAttention 2 did not when
LinkedIn trained GPT-OSS: the monitor alarms after three batches, and prints the command that says
why. Without it, it keeps quiet.
"""

import argparse
import logging
from itertools import islice
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from trl import GRPOConfig, GRPOTrainer

from mismatch_lab.live import MismatchMonitor
from mismatch_lab.live.adapters.trl import watch
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.mini.problems import grade, stream

CHECKPOINT = str(checkpoint_dir())
TOKENIZER = AutoTokenizer.from_pretrained(CHECKPOINT)
GROUP, PROMPTS, ANSWER_TOKENS = 8, 4, 48


def load(dtype):
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=getattr(torch, dtype))


class Engine:
    """Samples with a model of its own, and says how likely each token was."""

    def __init__(self, dtype):
        self.model = load(dtype).eval()

    def __call__(self, prompts, trainer):
        self.model.load_state_dict(trainer.model.state_dict())  # weights reach the engine
        ids = [
            TOKENIZER.apply_chat_template(one, add_generation_prompt=True).input_ids
            for one in prompts
        ]
        padded = TOKENIZER.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        with torch.no_grad():
            found = self.model.generate(
                **padded,
                do_sample=True,
                temperature=trainer.args.temperature,
                top_k=0,
                max_new_tokens=ANSWER_TOKENS,
                output_logits=True,
                return_dict_in_generate=True,
            )
        answers = found.sequences[:, padded["input_ids"].shape[1] :]
        logits = torch.stack(found.logits, dim=1).float() / trainer.args.temperature
        logp = logits.log_softmax(dim=-1).gather(-1, answers[..., None])[..., 0]
        ends = [_length(row) for row in answers.tolist()]
        return {
            "prompt_ids": ids,
            "completion_ids": [row[:end].tolist() for row, end in zip(answers, ends, strict=True)],
            "logprobs": [row[:end].tolist() for row, end in zip(logp, ends, strict=True)],
        }


def _length(row):
    end = TOKENIZER.eos_token_id
    return row.index(end) + 1 if end in row else len(row)


def right(completions, answer, **_):
    """1 where the number after `####` is the right one."""
    return [float(grade(one[0]["content"], n)) for one, n in zip(completions, answer, strict=True)]


def drop_sinks(model):
    """Attention by a kernel that does not know of sinks; nothing fails, nothing warns."""
    AttentionInterface.register("without_sinks", sdpa_attention_forward)
    AttentionMaskInterface.register("without_sinks", sdpa_mask)
    model.set_attn_implementation("without_sinks")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--steps", type=int, default=6)
    options.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    options.add_argument("--drop-sinks", action="store_true")
    given = options.parse_args()

    problems = islice(stream(0, "train"), PROMPTS * given.steps)
    rows = [
        {"prompt": [{"role": "user", "content": p.question}], "answer": p.answer} for p in problems
    ]
    model = load(given.dtype)
    if given.drop_sinks:
        drop_sinks(model)
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(
            output_dir=str(given.out / "trl"),
            per_device_train_batch_size=GROUP * PROMPTS,
            num_generations=GROUP,
            max_completion_length=ANSWER_TOKENS,
            max_steps=given.steps,
            learning_rate=1e-5,
            bf16=False,
            use_cpu=True,
            report_to="none",
            logging_steps=1,
            save_strategy="no",
        ),
        processing_class=TOKENIZER,
        reward_funcs=right,
        train_dataset=Dataset.from_list(rows),
        rollout_func=Engine(given.dtype),
    )
    monitor = MismatchMonitor(
        given.out / "mismatch",
        model=CHECKPOINT,
        dtype=given.dtype,
        engine="transformers",
        trainer="trl",
    )
    watch(trainer, monitor, score=True)
    trainer.train()
    monitor.close()
    print(f"alarms: {[alarm.kind for alarm in monitor.alarms]}, steps left out: {monitor.left_out}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
