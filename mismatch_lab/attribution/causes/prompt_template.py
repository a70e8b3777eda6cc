"""The two sides build different prompts."""

from mismatch_lab.attribution.causes.base import CauseEntry

CAUSE = CauseEntry(
    id="prompt-template",
    family="tokens",
    title="The two sides build different prompts",
    mechanism=(
        "Chat template, its arguments (tools, thinking), BOS handling or truncation differ between "
        "the engine's server and the trainer. The model then answers one prompt and is trained on "
        "another."
    ),
    signature=(
        "Prompt ids differ in a block, or in length. Response ids agree. Differences begin at the "
        "first response token, are largest there, and decay."
    ),
    confirmation=(
        "Compare the prompt ids of both sides. Send the trainer's ids to the engine instead of "
        "messages: the difference falls to the floor."
    ),
    remedy_id="one-template",
    remedy="Apply the template once, with one tokenizer, and pass ids to both sides.",
    remedies={
        "verl": (
            "Set actor_rollout_ref.model.custom_chat_template, if you need one, so that both sides "
            "use it, and leave skip_tokenizer_init=True."
        ),
        "TRL": (
            "Give chat_template_kwargs in GRPOConfig, and no template of its own to the vLLM "
            "server."
        ),
        "NeMo-RL": (
            "Set policy.tokenizer.chat_template (and its chat_template_kwargs); it is used for "
            "both sides."
        ),
        "slime": (
            "Use --apply-chat-template with --apply-chat-template-kwargs, and the ids it makes in "
            "custom generate functions."
        ),
        "FSDP": (
            "Call apply_chat_template(..., tokenize=True) once. Do not tokenise its text again "
            "with add_special_tokens=True: that doubles the BOS."
        ),
    },
    sources=(
        "https://github.com/huggingface/trl/pull/6250",
        "https://github.com/huggingface/trl/issues/3853",
        "https://github.com/huggingface/trl/issues/4358",
        "https://github.com/swiss-ai/model-launch/pull/173",
    ),
    fault="prompt-template",
    neighbours=(
        "retokenisation",
        "stale-prefix-cache",
    ),
)
