"""What the files of RL frameworks say of the engine that samples: option -> engine argument.

One row a framework; an option that is not in its row is an error of whoever gives the file, so that
nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mismatch_lab.schema import OptionValue

SAMPLING = ("temperature", "top_p", "seed")
"""Targets that are a run's own sampling options."""

GENERATION = ("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
"""Sampling fields that a run leaves to the engine: they go into `GENERATION_ARGUMENT`."""

GENERATION_ARGUMENT = "override_generation_config"
"""vLLM's argument of sampling fields that a request may leave out."""

PREFERRED = "preferred_sampling_params"
"""SGLang's."""

SGLANGS_NAMES = {
    "tensor_parallel_size": "tp_size", "pipeline_parallel_size": "pp_size",
    "data_parallel_size": "dp_size", "expert_parallel_size": "ep_size",
}  # fmt: skip
"""SGLang's flags that its engine has under another name."""

_MEMORY = "memory and scheduling alone"
_LENGTH = "the probe says how long answers are; see --max-tokens"
OF_TRAINING = "of training, not of the engine"
_LOGGING = "of logging and serving"
_VLLM_ALONE = "verl hands it to vLLM alone"

SERVER = {
    **dict.fromkeys(("host", "port", "uds", "uvicorn_log_level", "api_key", "served_model_name",
                     "root_path", "middleware", "ssl_keyfile", "ssl_certfile", "ssl_ca_certs",
                     "allow_credentials", "allowed_origins", "allowed_methods", "allowed_headers",
                     "chat_template", "response_role", "enable_auto_tool_choice",
                     "tool_call_parser", "reasoning_parser", "enable_log_requests",
                     "disable_log_requests", "disable_log_stats", "disable_uvicorn_access_log",
                     "api_server_count", "log_level", "log_requests", "enable_metrics"), _LOGGING),
    **dict.fromkeys(("model", "model_path", "tokenizer", "tokenizer_path", "model_tag"),
                    "the model is the one that is diagnosed"),
    "trust_remote_code": "asked for by --trust-remote-code alone",
}  # fmt: skip
"""Options of the engines' own files that are not of the engine."""


@dataclass(frozen=True)
class Framework:
    """How the rollout part of one framework's file is read."""

    version: str
    """Where its options and defaults were read from."""
    options: Mapping[str, str]
    """Option of the file -> target."""
    always: Mapping[str, OptionValue] = field(default_factory=dict)
    """What it sets by itself; the file's options stand over it."""
    left: Mapping[str, str] = field(default_factory=dict)
    """Option -> why it is no matter here."""
    passes_on: str = ""
    """Option that holds the engine's own arguments, by the engine's name."""
    others_are_the_engines: bool = False
    """Whether every other option is an argument of the engine, by its own name."""


_VERLS_OTHERS = {
    **dict.fromkeys(("free_cache_engine", "load_format", "cudagraph_capture_sizes",
                     "multi_stage_wake_up", "layered_summon", "enable_sleep_mode"),
                    _MEMORY),
    **dict.fromkeys(("prompt_length", "response_length", "ignore_eos"), _LENGTH),
    **dict.fromkeys(("name", "mode", "n", "_target_", "do_sample", "over_sample_rate",
                     "val_kwargs", "multi_turn", "agent", "checkpoint_engine", "nnodes",
                     "n_gpus_per_node", "data_parallel_size", "expert_parallel_size",
                     "pipeline_model_parallel_size", "update_weights_bucket_megabytes",
                     "calculate_log_probs", "enable_rollout_routing_replay", "mtp",
                     "skip_rollout", "skip_dump_dir", "skip_tokenizer_init",
                     "quantization_config_file", "limit_images",
                     "log_prob_micro_batch_size", "log_prob_micro_batch_size_per_gpu",
                     "log_prob_use_dynamic_bsz", "log_prob_max_token_len_per_gpu"),
                    OF_TRAINING),
    **dict.fromkeys(("trace", "profiler", "prometheus", "disable_log_stats"), _LOGGING),
}  # fmt: skip

FRAMEWORKS = {
    "verl": Framework(
        version="rollout.yaml and vllm_async_server.py of 2026-08",
        options={
            **{name: name for name in ("temperature", "top_p", "top_k", "dtype", "enforce_eager",
               "max_num_batched_tokens", "max_model_len", "max_num_seqs", "enable_chunked_prefill",
               "enable_prefix_caching", "logprobs_mode", "quantization", "scheduling_policy",
               "gpu_memory_utilization", "seed")},
            "tensor_model_parallel_size": "tensor_parallel_size",
        },
        always={
            "dtype": "bfloat16", "logprobs_mode": "processed_logprobs",
            "max_num_batched_tokens": 8192, "enable_chunked_prefill": True,
            "enable_prefix_caching": True, "enforce_eager": False, "generation_config": "vllm",
        },
        left=_VERLS_OTHERS,
        passes_on="engine_kwargs",
    ),
    "verl, sglang": Framework(
        version="rollout.yaml and async_sglang_server.py of 2026-08",
        options={
            **{name: name for name in ("temperature", "top_p", "top_k", "dtype", "quantization")},
            "enforce_eager": "disable_cuda_graph",
            "gpu_memory_utilization": "mem_fraction_static",
            "max_num_seqs": "max_running_requests",
            "tensor_model_parallel_size": "tp_size",
        },
        always={"dtype": "bfloat16", "disable_cuda_graph": False, "attention_backend": "fa3"},
        left={
            **_VERLS_OTHERS,
            **dict.fromkeys(("max_num_batched_tokens", "enable_chunked_prefill", "logprobs_mode",
                             "enable_prefix_caching", "scheduling_policy", "seed"), _VLLM_ALONE),
            "max_model_len": _LENGTH,
        },
        passes_on="engine_kwargs",
    ),
    "trl": Framework(
        version="grpo_config.py and vllm_generation.py of 2026-11",
        options={
            **{name: name for name in (*SAMPLING[:2], *GENERATION[:3])},
            "vllm_gpu_memory_utilization": "gpu_memory_utilization",
            "vllm_max_model_length": "max_model_len",
            "vllm_tensor_parallel_size": "tensor_parallel_size",
            "vllm_model_impl": "model_impl",
            "vllm_quantization": "quantization",
        },
        always={
            "logprobs_mode": "processed_logprobs", "max_num_batched_tokens": 4096,
            "generation_config": "vllm",
        },
        left={
            **dict.fromkeys(("vllm_mode", "vllm_server_base_url", "vllm_server_host",
                             "vllm_server_port", "vllm_server_timeout", "vllm_group_port",
                             "vllm_structured_outputs_regex"), _LOGGING),
            "vllm_enable_sleep_mode": _MEMORY,
            **dict.fromkeys(("vllm_importance_sampling_correction", "vllm_importance_sampling_mode",
                             "vllm_importance_sampling_cap", "vllm_importance_sampling_clip_max",
                             "vllm_importance_sampling_clip_min"), OF_TRAINING),
        },
    ),
    "prime-rl": Framework(
        version="configs/inference.py of 2026-08",
        options={},
        always={"logprobs_mode": "processed_logprobs"},
        left={
            **SERVER,
            "data_parallel_rpc_port": _LOGGING,
            **dict.fromkeys(("lora_target_modules", "max_loras", "max_cpu_loras", "max_lora_rank",
                             "enable_lora"), "no adapter is loaded: MODEL holds the policy"),
        },
        others_are_the_engines=True,
    ),
    "slime": Framework(
        version="arguments.py of 2026-08",
        options={
            "rollout_temperature": "temperature", "rollout_top_p": "top_p",
            "rollout_top_k": "top_k", "rollout_seed": "seed",
        },
        left={
            **dict.fromkeys(("rollout_max_response_len", "rollout_max_context_len",
                             "rollout_max_prompt_len", "rollout_stop", "rollout_stop_token_ids"),
                            _LENGTH),
            "sglang_server_concurrency": _LOGGING,
        },
    ),
}  # fmt: skip
"""kind, with the engine's name where there are several -> how it is read. TRL's file holds the
trainer's options too: of those only what begins with `vllm_` or is sampling is the rollout part."""
