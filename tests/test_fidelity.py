"""Fidelity of a student to its teacher, token by token and by place in the answer."""

import pytest
import torch
from loss_cases import ragged_labels

from stages._divergences import TopK
from stages._losses import answer_positions, fidelity, token_fidelity

torch.set_num_threads(1)


def test_fidelity_of_tokens_by_hand():
    # (.25, .75) against (.6, .4), then two equal rows
    student = torch.tensor([[0.25, 0.75], [0.3, 0.7]]).log()
    agrees, nats = token_fidelity(student, torch.tensor([[0.6, 0.4], [0.3, 0.7]]).log())
    assert agrees.tolist() == [False, True]
    # .6 ln 2.4 + .4 ln 8/15 = .525281 - .251443
    assert nats.tolist() == pytest.approx([0.273838, 0.0], abs=1e-5)


def test_fidelity_to_a_stored_teacher_looks_at_all_of_the_student():
    teacher = TopK(
        torch.tensor([[2, 0]]), torch.tensor([[0.7, 0.2]]).log(), torch.tensor([0.1]).log()
    )
    student = torch.tensor([[0.2, 0.5, 0.3]]).log()  # its favourite is no stored token
    agrees, nats = token_fidelity(student, teacher)
    assert agrees.tolist() == [False]
    # .7 ln 7/3 + .2 ln 1 + .1 ln 1/5 = .593108 - .160944
    assert nats.item() == pytest.approx(0.432165, abs=1e-5)
    # the favourite agrees, though all unstored tokens together weigh more
    wide = torch.tensor([[0.1, 0.25, 0.4, 0.25]]).log()
    assert token_fidelity(wide, teacher)[0].tolist() == [True]


def test_fidelity_is_reported_by_answer_position():
    positions = answer_positions(ragged_labels())
    assert positions.tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 1, 2, 0]
    agrees = positions != 1
    found = fidelity(agrees, positions.double(), positions, edges=(0, 1, 3, 9))
    assert [(b["from"], b["to"], b["tokens"]) for b in found] == [(0, 1, 4), (1, 3, 5), (3, 9, 2)]
    assert [b["top1_agreement"] for b in found] == [1.0, 0.4, 1.0]
    assert [b["mean_kl_nats"] for b in found] == [0.0, 1.4, 3.5]
