"""A defect that the catalogue does not have, located."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="unlisted",
    family="semantics",
    title="A defect without an entry here, in a module that is named",
    mechanism=(
        "One module of one side computes something else than the reference does with the same "
        "input, and no known cause, alone or with another, predicts what comes out of it. Its "
        "family is that of the module: attention, experts, norms."
    ),
    signature=(
        "Fed the same inputs as the reference, every module before it agrees and this one does "
        "not. Simulated causes leave most of the error, or act on modules that are sound."
    ),
    confirmation=(
        "Put that module back as the library has it and leave everything else: the error goes. "
        "The report says by how much its output is longer, and how far it is turned."
    ),
    remedy_id="mend-the-module",
    remedy=(
        "Compare the named module's code and configuration on both sides, line by line, with the "
        "same input. Once it is understood, an entry in the catalogue will name it next time."
    ),
    remedies={
        "verl": "Look at monkey patches that actor_rollout_ref.model turns on (use_liger, "
        "use_remove_padding, use_fused_kernels) and turn them off one at a time.",
        "TRL": "Turn use_liger_kernel and kernel packages off, and compare model_init_kwargs with "
        "what vLLM resolved from the same config.json.",
        "NeMo-RL": "Compare policy.dtensor_cfg's parallel plan and custom model code for this "
        "architecture with transformers' own.",
        "slime": "Compare Megatron's module spec and checkpoint conversion for this architecture "
        "with transformers' own.",
        "FSDP": "Run the module alone, from both programs, on one recorded input.",
    },
    sources=("https://github.com/AknA13/train-infer-mismatch",),
    fault=None,
    neighbours=("numerics-floor",),
)
