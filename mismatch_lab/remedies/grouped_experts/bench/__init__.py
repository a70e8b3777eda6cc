"""Peak memory and time of a layer's experts, each way, in train and eval mode under FSDP2.

`python -m mismatch_lab.remedies.grouped_experts.bench FOLDER` writes JSON and a page of tables.
"""
