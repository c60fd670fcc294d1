"""Tests whether the losses of a loaded base model are meaningful, whatever its configuration says."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from trainables.base.architectures import NEEDED
from trainables.base.model_files import error
from trainables.errors import ModelError
from trainables.specs import TrialSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TOKENS = 8
_POSITIONS = re.compile(r"wpe|(\w+_)?pos(ition)?s?(_\w+)?")
_LEAST_SHARE = 1e-6
"""A gradient of later tokens below this share of the earlier tokens' gradient counts as 0, since a kernel may mask with
a large number instead of infinity. A tiny random BERT, which sees all tokens, has 1e-3."""


def refuse_missing_weights(source: str, missing: Collection[str]) -> None:
    """Refuses a base with weights that are not in its files, because they would be random.

    The head is missing in a model that was saved without one. Embeddings are missing if only the decoder of an
    encoder-decoder is loaded.

    Args:
        source: the model, for the message.
        missing: names of the missing weights, without weights tied to others.
    """
    if missing:
        shown = ", ".join(sorted(missing)[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise error(source, f"its files lack {shown}, which would be random: {NEEDED}")


def refuse_foresight(source: str, model: PreTrainedModel) -> None:
    """Refuses a base whose output at a position depends on a later token, because it would see the answer.

    Checks gradients: in a causal model, the gradient of an output with respect to later tokens is 0 with every
    precision, layer and kernel. (Comparing the outputs of two texts would find rounding in a mixture of experts.)
    Also refuses a base whose first pass fails, because no trial could train on it.
    """
    import torch

    seen: list[torch.Tensor] = []

    def remember(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_(True))
        return seen[-1].clone()  # some models (such as CTRL) write to the output in place, which a leaf forbids

    embeddings = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(remember)
    try:
        with torch.enable_grad():
            _loss(model, torch.arange(_TOKENS, device=embeddings.weight.device)).backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:
        way_out = "quantization.scheme=none may help" if getattr(model, "is_quantized", False) else NEEDED
        raise error(source, f"its first pass fails ({type(problem).__name__}: {problem}): {way_out}") from problem
    finally:
        hook.remove()
    for tokens in seen:
        if tokens.grad is None:
            continue
        # There is one row of tokens, so either axis may be the batch.
        earlier, later = tokens.grad.reshape(2, -1).float().abs().amax(dim=1).tolist()
        if later > _LEAST_SHARE * earlier:
            raise error(source, f"its output depends on tokens that are to be predicted: {NEEDED}")


def _loss(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Returns a number that depends only on the outputs at the first half of the tokens."""
    logits: torch.Tensor = model(input_ids=ids[None], use_cache=False).logits
    return logits[:, : len(ids) // 2].float().square().sum()


def refuse_moving_positions(model: PreTrainedModel, spec: TrialSpec) -> None:
    """Refuses rows so long that the base encodes their positions by the longest row of the batch.

    Bases with "dynamic" or "longrope" rotary embeddings do this (transformers modeling_rope_utils.py,
    dynamic_rope_update, 5.24). The results of a trial would then depend on the rows of other trials.
    """
    rope = getattr(model.config, "rope_parameters", None) or {}
    kinds = {layer.get("rope_type") for layer in (rope, *rope.values()) if isinstance(layer, dict)}
    if spec.data is None or not kinds & {"dynamic", "longrope"}:
        return
    original = rope.get("original_max_position_embeddings") or model.config.max_position_embeddings
    if spec.data.max_length > original:
        raise ModelError(
            f"data.max_length: {spec.data.max_length} is beyond the {original} positions from which "
            f"{spec.base_model.source} scales them by the longest row of a batch, so that a trial's numbers would "
            f"depend on its neighbours: lower it to {original}"
        )


def refuse_long_rows(model: PreTrainedModel, spec: TrialSpec, longest: int, answer: int = 0) -> None:
    """Refuses rows with more tokens than the position table of the base. GPT-2 and OPT have such tables.

    Every pass with too long a row fails, and on a GPU the failure takes the host down.

    Args:
        longest: tokens of the longest row.
        answer: the most tokens that may be generated after the row.
    """
    most = min(_positions(model), default=longest + answer)
    if longest + answer > most:
        behind = f" and an answer of up to {answer} (evaluation.max_new_tokens)" if answer else ""
        raise ModelError(
            f"data.max_length: {spec.data_spec.max_length} leaves a row of {longest} tokens{behind}, and "
            f"{spec.base_model.source} has {most} positions: lower it to {most - answer}, so that longer rows are cut"
        )


def refuse_unknown_tokens(model: PreTrainedModel, spec: TrialSpec, highest: int) -> None:
    """Refuses rows with a token that has no embedding in the base: only the tokenizer was given more tokens.

    Every pass with such a row fails, and on a GPU the failure takes the host down.

    Args:
        highest: the highest token id of the rows.
    """
    known = len(model.get_input_embeddings().weight)
    if highest >= known:
        raise error(
            spec.base_model.source,
            f"its tokenizer writes token {highest} in the rows, and it has {known} embeddings, the last for token "
            f"{known - 1}: take the tokenizer that belongs to it, or call resize_token_embeddings and save the model",
        )


def _positions(model: PreTrainedModel) -> Iterator[int]:
    """Yields the size in tokens of each position table in the model, learned or fixed. Rotary embeddings have none."""
    from torch import nn

    said = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and _POSITIONS.fullmatch(name.rpartition(".")[2]):
            # RoBERTa and its kin count from the place behind the padding token.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            # OPT's table has two rows more than the model has positions.
            yield min(module.num_embeddings - unused, said or module.num_embeddings)
    for name, table in model.named_buffers():
        if name.rpartition(".")[2] in ("embed_positions", "pos_encoding") and table.dim() == 2:  # GPT-J, CTRL
            yield len(table)
