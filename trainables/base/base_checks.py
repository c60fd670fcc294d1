"""What a loaded base must be, looked for in the model itself: whatever its names say, its losses mean something."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from trainables.base.architectures import NEEDED
from trainables.base.model_files import error
from trainables.errors import ModelError
from trainables.specs import TrialSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TOKENS = 8
_LEAST_SHARE = 1e-6
"""Gradients of later tokens below this part of the earlier ones' are no dependence: a kernel may mask by a large number
in place of infinity. Those of a tiny random BERT come to 1e-3."""


def refuse_missing_weights(source: str, missing: Collection[str]) -> None:
    """Refuses a base with weights that its files do not have: they would be random.

    So are the head of a model that was saved without one, and the embeddings of an encoder-decoder whose decoder is
    loaded alone.

    Args:
        source: the model, for the message.
        missing: names of the weights; those that are tied to others are not among them.
    """
    if missing:
        shown = ", ".join(sorted(missing)[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise error(source, f"its files lack {shown}, which would be random: {NEEDED}")


def refuse_foresight(source: str, model: PreTrainedModel) -> None:
    """Refuses a base whose output at a position depends on a later token: such a model sees the answer.

    Asked of the gradient, which is 0 from a position to later tokens in a causal model, whatever the precision, the
    layers or the kernels are. (Outputs for two texts would also differ by rounding, in a mixture of experts.) A base
    whose first pass fails is refused as well: no trial could train on it.
    """
    import torch

    seen: list[torch.Tensor] = []

    def remember(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_(True))
        return seen[-1].clone()  # some models (CTRL, for one) go on in place, which a leaf does not allow

    embeddings = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(remember)
    try:
        with torch.enable_grad():
            _loss(model, torch.arange(_TOKENS, device=embeddings.weight.device)).backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:
        way_out = "quantization.scheme=none may mend it" if getattr(model, "is_quantized", False) else NEEDED
        raise error(source, f"its first pass fails ({type(problem).__name__}: {problem}): {way_out}") from problem
    finally:
        hook.remove()
    for tokens in seen:
        if tokens.grad is None:
            continue
        # One row of tokens, whichever axis is the batch.
        earlier, later = tokens.grad.reshape(2, -1).float().abs().amax(dim=1).tolist()
        if later > _LEAST_SHARE * earlier:
            raise error(source, f"its output depends on tokens that are to be predicted: {NEEDED}")


def _loss(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """A number that depends on the outputs at the first half of the tokens alone."""
    logits: torch.Tensor = model(input_ids=ids[None], use_cache=False).logits
    return logits[:, : len(ids) // 2].float().square().sum()


def refuse_moving_positions(model: PreTrainedModel, spec: TrialSpec) -> None:
    """Refuses rows beyond the length from which the base encodes positions by the longest row of a batch.

    "dynamic" and "longrope" rotary embeddings do (transformers modeling_rope_utils.py, dynamic_rope_update, 5.24):
    a trial's numbers would depend on its neighbours' rows.
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
