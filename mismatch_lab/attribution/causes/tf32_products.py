"""Float32 matrix products lose bits on one side."""

from mismatch_lab.attribution.causes.base import LARGEST_LOGITS_NATS, CauseEntry

CAUSE = CauseEntry(
    id="tf32-products",
    family="precision",
    title="Float32 matrix products run in TF32 on one side",
    mechanism=(
        "Tensor cores take 10 of the 23 bits of a float32's mantissa. torch multiplies so only "
        "where TF32 is allowed. Triton's tl.dot does so on NVIDIA GPUs unless it is told "
        "otherwise, and cuts the other bits off: so do vLLM's Triton kernels of attention and "
        "experts, which it takes for float32, while its projections stay exact."
    ),
    signature=(
        "Float32 runs disagree by about 1e-4 nats. On equal inputs attention and experts, or all "
        "projections, are off by 1e-4 to 1e-3 while norms are exact. Where bits are cut off, "
        "outputs are up to a thousandth too short."
    ),
    confirmation=(
        "Run the engine again with TRITON_F32_DEFAULT=ieee in its environment and an empty "
        "TRITON_CACHE_DIR, the trainer with torch's precision set to highest: it disappears. "
        "Offline, the reference with operands of these products in TF32 says what the suspect says."
    ),
    remedy_id="full-float32",
    remedy=(
        "For comparisons in float32: TRITON_F32_DEFAULT=ieee and an empty TRITON_CACHE_DIR for "
        "the engine, torch.set_float32_matmul_precision('highest') in the trainer. Training in "
        "bfloat16 needs neither: TF32 is finer."
    ),
    remedies={
        "verl": (
            "Put TRITON_F32_DEFAULT=ieee into Ray's runtime environment for float32 rollouts; look "
            "for allow_tf32 in the trainer's code."
        ),
        "TRL": (
            "Set tf32=False in the training arguments, and start trl vllm-serve with "
            "TRITON_F32_DEFAULT=ieee."
        ),
        "NeMo-RL": (
            "Put TRITON_F32_DEFAULT=ieee into the environment of the generation workers; look for "
            "allow_tf32 in the policy's code."
        ),
        "slime": "Start SGLang with TRITON_F32_DEFAULT=ieee in its environment.",
        "FSDP": "torch.set_float32_matmul_precision('highest') before the first forward.",
    },
    sources=(
        "https://github.com/triton-lang/triton/blob/main/python/triton/language/core.py",
        "https://github.com/vllm-project/vllm/blob/main/vllm/v1/attention/ops/triton_unified_attention.py",
        "https://github.com/pytorch/pytorch/blob/main/docs/source/notes/cuda.rst",
        "https://github.com/evintunador/triton_docs_tutorials/issues/6",
    ),
    fault="tf32-kernels",
    neighbours=(
        "norm-precision",
        "numerics-floor",
    ),
    largest_nats=2.0**-11 * LARGEST_LOGITS_NATS,  # operands lose all but 10 bits
)
