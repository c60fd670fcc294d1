"""Computes token losses of a frozen head without ever holding the logits of all tokens.

The gradient of a token's loss by its hidden state, (softmax - one-hot) W, is computed together with the loss, chunk by
chunk; the backward pass only scales it by the gradient that arrives. This costs no second product with the head, as
recomputing in the backward pass would.
"""

from __future__ import annotations

from typing import Any

import torch

from trainables.packing.lora_product import multiply
from trainables.packing.pass_memory import CHUNK_TOKENS, FEW_TOKENS


def token_losses(hidden: torch.Tensor, head: torch.nn.Linear, answers: torch.Tensor) -> torch.Tensor:
    """Returns the negative log-likelihood of each answer: (tokens,), float32.

    Args:
        hidden: (tokens, width), the inputs of the head.
        head: the frozen head.
        answers: (tokens,).
    """
    losses: torch.Tensor = _HeadLoss.apply(hidden, head, answers)  # type: ignore[no-untyped-call]
    return losses


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.nn.Linear, answers: torch.Tensor) -> torch.Tensor:
        losses = torch.empty(len(answers), dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # One place in memory for the logits of every chunk: fresh pages cost as much as an operation on them.
        logits_NV = hidden.new_empty(min(CHUNK_TOKENS, len(answers)), head.out_features)
        for start in range(0, len(answers), CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            scores_NV = multiply(hidden[chunk], head.weight, head.bias, logits_NV[: len(answers[chunk])]).float()
            total_N = torch.cat([torch.logsumexp(few, dim=-1) for few in scores_NV.split(FEW_TOKENS)])
            losses[chunk] = total_N - scores_NV.gather(1, answers[chunk, None])[:, 0]
            if slopes is not None:
                likelihoods_NV = scores_NV.sub_(total_N[:, None]).exp_()
                likelihoods_NV[torch.arange(len(total_N), device=hidden.device), answers[chunk]] -= 1.0
                slopes[chunk] = likelihoods_NV.to(hidden.dtype) @ head.weight
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradients[0][:, None].to(slopes.dtype), None, None
