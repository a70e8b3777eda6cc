"""An engine's settings: as configured, and what hooks need of them. Light: no engine is imported.

Log-probs are those of the engine as it is configured. Hooks (hidden states, router choices, the
full vocabulary) need eager code and whole prompts; where the engine is configured otherwise, it is
started a second time with `HOOKABLE`, and what both say is compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from mismatch_lab.schema import OptionValue, SideSpec

HOOKABLE: dict[str, dict[str, OptionValue]] = {
    "vllm": {
        "enforce_eager": True,  # compiled graphs skip hooks
        "enable_chunked_prefill": False,  # hooks see whole sequences
        "enable_prefix_caching": False,
    },
    "sglang": {
        "disable_cuda_graph": True,
        "chunked_prefill_size": -1,
        "disable_radix_cache": True,
        "disable_overlap_schedule": True,
    },
}
"""engine -> options under which its modules can be hooked."""

NEED_A_START = (
    "enforce_eager", "enable_chunked_prefill", "disable_cuda_graph", "chunked_prefill_size",
)  # fmt: skip
"""Those of them without which nothing can be hooked. A prefix cache is in nobody's way: a request
that asks for log-probs of its prompt reads none."""

_COMPILED = ("compilation_config", "max_num_batched_tokens", "*cuda_graph_*", "*torch_compile*")
"""Patterns of options that speak of compiled graphs and of chunks: a start without those has no use
for them, and vLLM refuses a batch shorter than the context where prompts are not cut."""

CONTEXT_ON_CPU = 4096
"""Tokens of context on a CPU where the model allows more: enough for most probes, and a cache of
1 GiB (`vllm_options.ENVIRONMENT`) has to hold a row of that length."""

RUNNING_ON_CPU = 64
"""Sequences at once that SGLang makes room for on a CPU: more than any probe has prompts."""

CHUNK_ON_GPU = 8192
"""SGLang's own on 60 to 160 GiB of GPU memory; on less it is 2,048 or 4,096, on more 16,384."""

_SMALL_CACHE = "the cache of a CPU engine is small"
_ONLY_ONE = "the only one that SGLang has for a CPU without AMX"

ON_CPU: dict[str, dict[str, tuple[OptionValue, str]]] = {
    "vllm": {
        "enforce_eager": (True, "compiling takes minutes on a CPU"),
        "enable_chunked_prefill": (
            False,
            "vLLM 0.32 on a CPU ends with an error where a prompt with a seed is cut in chunks",
        ),
        "max_model_len": (CONTEXT_ON_CPU, _SMALL_CACHE),
    },
    "sglang": {
        "device": ("cpu", "there is no GPU"),
        "attention_backend": ("torch_native", _ONLY_ONE),
        "sampling_backend": ("pytorch", _ONLY_ONE),
        "disable_cuda_graph": (True, "there are none on a CPU"),
        "disable_overlap_schedule": (
            True,
            "beside a radix cache an update from tensors does not end with it (SGLang 0.5.21)",
        ),
        "chunked_prefill_size": (
            CONTEXT_ON_CPU,
            "SGLang takes it from the machine's memory; here a row that is scored by itself stays "
            "whole",
        ),
        "context_length": (CONTEXT_ON_CPU, _SMALL_CACHE),
        "max_running_requests": (RUNNING_ON_CPU, _SMALL_CACHE),
        "mem_fraction_static": (0.5, "the memory of a CPU is not the engine's alone"),
    },
}
"""engine -> option -> (what holds on a CPU where the user says nothing, why not the engine's own
default)."""

DEFAULTS: dict[str, dict[str, OptionValue]] = {
    "vllm": {
        "enforce_eager": False,
        "enable_chunked_prefill": True,
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        "generation_config": "auto",
        "kv_cache_dtype": "auto",
    },
    "sglang": {
        "disable_cuda_graph": False,
        "chunked_prefill_size": CHUNK_ON_GPU,
        "disable_radix_cache": False,
        "disable_overlap_schedule": False,
        "enable_deterministic_inference": False,
        "rl_on_policy_target": "",
        "original_logprob": False,
        "kv_cache_dtype": "auto",
    },
}
"""engine -> what holds where the user says nothing, of what moves log-probs (`ON_CPU` over it)."""


def held(spec: SideSpec, on_gpu: bool) -> dict[str, OptionValue]:
    """Options in force of those that are known here: the user's over the engine's own defaults."""
    on_cpu = {} if on_gpu else ON_CPU.get(spec.engine, {})
    machine = {name: value for name, (value, _) in on_cpu.items()}
    return {**DEFAULTS.get(spec.engine, {}), **machine, **spec.args}


PLAIN_VLLM: dict[str, OptionValue] = {
    **HOOKABLE["vllm"],
    "logprobs_mode": "processed_logprobs",
    "generation_config": "vllm",
}
"""vLLM as the scorecard asks for it, so that a case holds the fault that was planted and no other:
eager, log-probs of what was drawn from, and nothing inherited from the checkpoint."""


def hookable(spec: SideSpec) -> SideSpec:
    """The same engine, weights and plugin, started so that its modules can be hooked."""
    wanted = HOOKABLE.get(spec.engine, {})
    args = {
        name: value
        for name, value in spec.args.items()
        if not any(fnmatchcase(name, pattern) for pattern in _COMPILED)
    }
    return spec.model_copy(update={"args": {**args, **wanted}})


def second_start(spec: SideSpec, on_gpu: bool) -> SideSpec | None:
    """What hooks need beside the engine as configured; None where it can be hooked itself.

    Args:
        spec: the engine as configured.
        on_gpu: whether it runs on one, where it compiles and cuts prompts unless told not to.
    """
    if spec.engine not in HOOKABLE:
        return None
    options, wanted = held(spec, on_gpu), HOOKABLE[spec.engine]
    needed = [name for name in NEED_A_START if name in wanted]
    hooked = all(options[name] == wanted[name] or _keeps_whole(name, options) for name in needed)
    return None if hooked else hookable(spec)


def _keeps_whole(name: str, options: dict[str, OptionValue]) -> bool:
    """Whether a chunk holds the longest row: what hooks see is scored a row at a time."""
    chunk, context = options.get("chunked_prefill_size"), options.get("context_length")
    known = isinstance(chunk, int) and isinstance(context, int)
    return name == "chunked_prefill_size" and known and int(chunk) >= int(context)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Concern:
    """What a setting of one side has to do with the other's log-probs."""

    unlike: tuple[OptionValue, ...]
    """Values that are no matter."""
    why: str


_BEFORE_TEMPERATURE = (
    "raw log-probs are taken before temperature and truncation: at any temperature but 1 they are "
    "not those of the distribution that tokens were drawn from"
)
_OF_CACHES = "a cache that outlives an update of the weights gives old keys and values"
_OF_GRAPHS = "compiled graphs and fused kernels are not what is hooked"
_OF_CHUNKS = "a prompt in chunks goes through other kernels"
_OF_DRAFTS = "draft models: which policy is it that drew the token"
_OF_LENGTH = "longer rows are refused; rotary scaling may depend on it"
_OF_ATTENTION = "windows, sinks and softcaps are the kernel's"

CONCERNS: dict[str, Concern] = {
    "logprobs_mode": Concern(
        ("processed_logprobs",),
        _BEFORE_TEMPERATURE,
    ),
    "generation_config": Concern(
        ("vllm",),
        "penalties, top-k and min-p of the checkpoint's generation_config.json change what is "
        "drawn; trainers know nothing of them",
    ),
    "override_generation_config": Concern((), "truncation and penalties that trainers leave out"),
    "enable_prefix_caching": Concern(
        (False,), _OF_CACHES
    ),
    "enforce_eager": Concern((True,), _OF_GRAPHS),
    "enable_chunked_prefill": Concern((False,), _OF_CHUNKS),
    "kv_cache_dtype": Concern(("auto",), "trainers keep keys and values in the model's dtype"),
    "disable_radix_cache": Concern((True,), _OF_CACHES),
    "disable_cuda_graph": Concern((True,), _OF_GRAPHS),
    "chunked_prefill_size": Concern((-1,), _OF_CHUNKS),
    "disable_overlap_schedule": Concern(
        (True,), "a batch is made up while another runs: who runs with whom depends on timing"
    ),
    "enable_deterministic_inference": Concern(
        (True,), "kernels that depend on the batch: a token's log-prob changes with its company"
    ),
    "rl_on_policy_target": Concern((), "computes some things as FSDP does, in bfloat16"),
    "original_logprob": Concern((False,), _BEFORE_TEMPERATURE),
    "preferred_sampling_params": Concern((), "sampling fields of requests that set none"),
    "sampling_defaults": Concern(
        ("openai",),
        "its OpenAI endpoints take penalties, top-k and min-p from generation_config.json; "
        "/generate, which is asked here, takes none",
    ),
    "speculative_algorithm": Concern((), _OF_DRAFTS),
    "context_length": Concern((), _OF_LENGTH),
    "prefill_attention_backend": Concern((), _OF_ATTENTION),
    "decode_attention_backend": Concern((), _OF_ATTENTION),
    "moe_runner_backend": Concern((), "biases, layouts and routing are the kernel's"),
    "enable_torch_compile": Concern((False,), _OF_GRAPHS),
    "quantization": Concern((), "trainers hold the weights as they are"),
    "speculative_config": Concern((), _OF_DRAFTS),
    "max_model_len": Concern((), _OF_LENGTH),
    "attention_backend": Concern((), _OF_ATTENTION),
}  # fmt: skip
"""Setting of the engine -> when it is a matter. Shown in the report whatever their value is."""

OF_TRAINER: dict[str, Concern] = {
    "packing": Concern(
        (False,),
        "borders of packed rows are inferred from restarted positions: some models and attention "
        "kernels do it, others let rows see their neighbours",
    ),
    "attn_implementation": Concern((), _OF_ATTENTION),
    "experts_implementation": Concern((), "biases and layouts are the implementation's"),
    "param_dtype": Concern((), "what the forward computes in"),
    "master_dtype": Concern((), "weights are rounded from it at every forward"),
    "autocast": Concern(
        (False,), "rounds what the model's own code computes in float32: routers, norms, heads"
    ),
    "gradient_checkpointing": Concern(
        (), "an update's forward is run so, in training mode and with gradients"
    ),
    "liger": Concern((False,), "norms, rotary embedding, MLP and head are Liger's kernels"),
}
"""The same of the trainer (`fsdp`, `hf`)."""
