"""The table of fixes."""

import pytest
import torch

from mismatch_lab.attribution.causes import CAUSES
from mismatch_lab.errors import InputError
from mismatch_lab.remedies import REMEDIES, fixes_of, load_fixes, load_remedy
from mismatch_lab.remedies.few_lines import old_logp


@pytest.mark.parametrize("name", sorted(REMEDIES))
def test_every_fix_says_what_it_does_and_where_it_is_from(name: str) -> None:
    remedy = load_remedy(name)
    assert remedy.id == name
    assert remedy.formula
    assert remedy.source
    assert set(remedy.causes) <= set(CAUSES)


def test_a_named_remedy_is_a_fix_that_exists_and_what_removes_a_cause_comes_first() -> None:
    assert fixes_of("lm-head-precision") == ("fp32-head", "rollout-correction")
    assert fixes_of("routing-two-pass") == ("routing-replay", "on-policy-ratio")
    assert fixes_of("rope-theta") == ()


def test_unknown_fix_lists_what_there_is() -> None:
    with pytest.raises(InputError, match="attention-sinks"):
        load_fixes(["attention-sink"])


def test_old_logp_is_the_current_one_in_the_first_update_only() -> None:
    logp, scored = torch.tensor([-1.0], requires_grad=True), torch.tensor([-2.0])
    first = old_logp(logp, scored, 0)
    assert first.item() == -1.0
    assert not first.requires_grad
    assert old_logp(logp, scored, 1) is scored
