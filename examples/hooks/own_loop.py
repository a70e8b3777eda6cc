"""A training loop of one's own, sharded by FSDP2, with a monitor on every rank.

    torchrun --nproc-per-node 2 examples/hooks/own_loop.py --out runs/own
    torchrun --nproc-per-node 2 examples/hooks/own_loop.py --out runs/stale --keep-weights

Runs on a CPU in half a minute: the embedded GPT-OSS learns to say even tokens. The engine is a
second copy of the model in bfloat16, where the trainer computes in float32: in one precision both
would be equal to the last bit here, which is an alarm of its own. It gets the trainer's weights
before each roll-out; with `--keep-weights` it does not, and says so: the mismatch grows.
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from mismatch_lab.live import MismatchMonitor
from mismatch_lab.mini import checkpoint_dir
from mismatch_lab.mini.problems import generate

ROWS, ANSWER_TOKENS = 8, 32


def logp_of(logits, ids):
    """[R, L] nats of tokens, of logits at the same places."""
    return logits.float().log_softmax(dim=-1).gather(-1, ids[..., None])[..., 0]


def sample(engine, prompt):
    """[R, L] prompts with answers, and what the engine says of each token; 0 in prompts."""
    found = engine.eval().generate(
        prompt,
        do_sample=True,
        top_k=0,
        max_new_tokens=ANSWER_TOKENS,
        eos_token_id=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    answers = found.sequences[:, prompt.shape[1] :]
    logp = logp_of(torch.stack(found.logits, dim=1), answers)
    return found.sequences, torch.cat([torch.zeros(prompt.shape), logp], dim=1)


def score(trainer, ids):
    """[R, L] nats by the trainer's own forward; 0 for the first token."""
    logp = logp_of(trainer(input_ids=ids).logits[:, :-1], ids[:, 1:])
    return torch.nn.functional.pad(logp, (1, 0))


def send_weights(trainer, engine):
    """All shards, on every rank."""
    whole = {
        name: one.full_tensor() if isinstance(one, DTensor) else one
        for name, one in trainer.state_dict().items()
    }
    engine.load_state_dict(whole)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--steps", type=int, default=12)
    options.add_argument("--learning-rate", type=float, default=5e-4)
    options.add_argument("--keep-weights", action="store_true")
    given = options.parse_args()
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)

    engine = AutoModelForCausalLM.from_pretrained(checkpoint_dir(), dtype=torch.bfloat16)
    trainer = AutoModelForCausalLM.from_pretrained(checkpoint_dir(), dtype=torch.float32)
    for layer in trainer.model.layers:
        fully_shard(layer)
    fully_shard(trainer)
    optimizer = torch.optim.AdamW(trainer.parameters(), lr=given.learning_rate)
    monitor = MismatchMonitor(
        given.out, model=str(checkpoint_dir()), dtype="bfloat16", rank=rank, engine="transformers"
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir())
    version = 0
    for step, problem in enumerate(generate(given.steps, seed=rank)):
        if not given.keep_weights:
            send_weights(trainer, engine)
            version = step
        prompt = torch.tensor([tokenizer.encode(problem.question)]).repeat(ROWS, 1)
        ids, logp_infer = sample(engine, prompt)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[:, prompt.shape[1] :] = True
        logp_train = score(trainer, ids)

        monitor.observe(
            step,
            ids,
            mask,
            logp_infer,
            logp_train,
            learning_rate=given.learning_rate,
            versions=(version, step),
        )

        reward = ((ids % 2 == 0) * mask).float().mean(dim=1)  # whatever can be learnt at once
        advantage = (reward - reward.mean())[:, None]
        loss = -(advantage * logp_train * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    monitor.close()
    print(f"rank {rank}: alarms {[alarm.kind for alarm in monitor.alarms]}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
