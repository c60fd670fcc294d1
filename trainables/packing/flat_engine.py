"""Implements the engine without padding: the tokens of all slots pass the base as one sequence.

PEFT holds the adapters, so that names, initial values and files are PEFT's, but PEFT's layers compute nothing. Each
layer multiplies all tokens with the base once and adds each adapter's part to the adapter's tokens (`lora_product`).
Layers that share an input, such as those of queries, keys and values, are computed when the first of them is called.
Attention stays inside rows (`flat_attention`), and the head sees only positions that predict a labelled token.

The parts are computed one adapter after the other: the products are small and of uneven sizes, and a NaN of a diverged
trial cannot reach its neighbours, as it would through one product with a mask. On request all adapters without dropout
are computed together (`grouped_product`), and all rows attend at once: on a GPU each operator costs time. The base
stays as given: 4-bit, or dequantised once (`base_model.dequantise`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from trainables.base.base_model import Base
from trainables.packing import fewer_operators, flat_attention, generation, grouped_product, lora_product
from trainables.packing.batches import FlatBatch, Span, flatten
from trainables.packing.engine import Answer, Answering, Prompt, Segment, dropout_mask
from trainables.packing.pass_limits import EXPONENT_TOKENS, FLAT_KINDS, LOGIT_TOKENS, PARALLEL_PASSES, SHARED_INPUT
from trainables.packing.peft_adapters import PeftAdapters, adapter_name
from trainables.quantization import is_quantised
from trainables.specs import TrialSpec


def uncovered(base: Base) -> str | None:
    """Returns why `FlatEngine` cannot train a base that has no adapters yet; None if it can."""
    model = base.model
    kind = model.config.model_type
    if kind not in FLAT_KINDS or type(model).__module__.partition(".")[0] != "transformers":
        return f"model_type {kind!r} is not one of {', '.join(sorted(FLAT_KINDS))}"
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        if getattr(model.config, name, None) is not None:
            return f"the model sets {name}"
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return f"its head is a {type(head).__name__}"
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and type(layer) is not torch.nn.Linear and not is_quantised(layer):
            return f"its layer {name} is a {type(layer).__name__}"
    # Adapters compute in the type of the activations, and small gradients vanish in float16.
    return "its activations are float16" if base.dtype == torch.float16 else None


@dataclass(frozen=True)
class _Adapter:
    """One adapter's part in one layer."""

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scaling: float
    dropout: float
    layer: int
    """Place of the layer among the layers of the adapter."""
    lengths: torch.nn.Parameter | None = None
    """DoRA's length of each row of the weight; None for plain LoRA."""


@dataclass
class _Siblings:
    """Frozen layers that share an input, in the order of the model."""

    layers: list[torch.nn.Linear] = field(default_factory=list)
    adapters: dict[int | None, dict[int, _Adapter]] = field(default_factory=dict)
    """Slot -> place among `layers` -> adapter. The slot None, which is the base alone, has no entry."""
    stack: grouped_product.Stack | None = None
    """The matrices of the adapters that the present pass computes together."""


class FlatEngine:
    """An `Engine` without padding, for some model types. See `trainables.packing.engine.Engine`."""

    def __init__(self, base: Base, grouped: bool = False) -> None:
        """Takes over a base.

        Args:
            base: a base for which `uncovered` returns None.
            grouped: whether a pass computes all adapters without dropout together, and in `token_losses` the attention
                of all rows. Needs a torch for which `grouped_product.missing` returns None.

        Raises:
            ValueError: the base is not covered.
        """
        problem = uncovered(base)
        if problem is not None:
            raise ValueError(f"the flat engine does not cover this base: {problem}")
        self.base = base
        # Adapters that are computed together are stacked for one pass.
        self.parallel_passes = 1 if grouped else PARALLEL_PASSES[base.device.type]
        self._grouped = grouped
        self._adapters = PeftAdapters(base)
        self._droppers: set[int] = set()
        """The slots of adapters with dropout."""
        # On a GPU the backward pass, in which gradient checkpointing runs the layers again, has a thread of its own.
        self._pass: Any = threading.local() if self.parallel_passes > 1 else SimpleNamespace()
        """State of the present pass. `spans`: its spans. `cast`: id of a parameter -> its matrix in the type of the
        activations; empty in float32. `ahead`: layer -> its input and its output, computed when a sibling was called.
        """
        self._siblings = self._take_over()
        flat_attention.use(base.model)
        fewer_operators.use(base.model)

    def add(self, slot: int, spec: TrialSpec) -> Mapping[str, torch.nn.Parameter]:
        """See `Engine.add`."""
        self._adapters.add(slot, spec)
        if spec.adapter.lora_dropout > 0:
            self._droppers.add(slot)
        name = adapter_name(slot)
        adapted = [layer for layer in self._adapters.layers() if name in layer.lora_A]
        order = {id(layer.get_base_layer()): place for place, layer in enumerate(adapted)}
        for siblings in self._siblings:
            own = {place: order[id(layer)] for place, layer in enumerate(siblings.layers) if id(layer) in order}
            wrapped = [adapted[of] for of in own.values()]
            # Views of one tensor, so that these matrices make one product without a copy.
            together = lora_product.side_by_side([layer.lora_A[name].weight for layer in wrapped])
            for layer, a in zip(wrapped, together, strict=True):
                layer.forward = layer.get_base_layer().forward
                layer.lora_A[name].weight = torch.nn.Parameter(a)
            siblings.adapters[slot] = {
                place: _Adapter(
                    a=layer.lora_A[name].weight,
                    b=layer.lora_B[name].weight,
                    scaling=layer.scaling[name],
                    dropout=spec.adapter.lora_dropout,
                    layer=own[place],
                    lengths=layer.lora_magnitude_vector[name].weight if spec.adapter.use_dora else None,
                )
                for place, layer in zip(own, wrapped, strict=True)
            }
        return self._adapters.collect(slot)

    def _take_over(self) -> list[_Siblings]:
        """Makes this engine compute all linear layers but the head; returns the layers grouped by input.

        Layers without adapters too: else an adapter's numbers would depend on the layers that other adapters change.
        """
        found: dict[str, _Siblings] = {}
        for name, layer in self.base.model.model.named_modules():
            if isinstance(layer, torch.nn.Linear):
                parent, _, own = name.rpartition(".")
                siblings = found.setdefault(f"{parent}.{SHARED_INPUT.get(own, own)}", _Siblings())
                layer.forward = self._computed(siblings, len(siblings.layers))  # type: ignore[method-assign]
                siblings.layers.append(layer)
        return list(found.values())

    def remove(self, slot: int) -> None:
        """See `Engine.remove`."""
        self._droppers.discard(slot)
        for siblings in self._siblings:
            siblings.adapters.pop(slot, None)
            siblings.stack = None
        self._adapters.remove(slot)

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """See `Engine.adapter`."""
        return self._adapters.folder(slot)

    def pass_tokens(self, segments: Sequence[Segment]) -> int:
        """See `Engine.pass_tokens`."""
        return sum(segment.tokens for segment in segments)

    def token_losses(self, segments: Sequence[Segment]) -> list[torch.Tensor]:
        """See `Engine.token_losses`."""
        batch = flatten([self._dropping(segment) for segment in segments], self.base.device)
        grid = flat_attention.grid(batch.pieces, self.base.device) if self._grouped else None
        losses_N = head_losses(self._kept(batch, grid or batch.pieces), self._head, batch.answers)
        return list(losses_N.split([segment.labels for segment in segments]))

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], how: Answering) -> list[Answer]:
        """See `Engine.generate`."""

        def logits(batch: FlatBatch, pieces: flat_attention.Pieces) -> torch.Tensor:
            logits_NV: torch.Tensor = self._head(self._kept(batch, pieces))
            return logits_NV.float()

        return generation.answer(prompts, how, logits, self.base.device)

    @property
    def _head(self) -> torch.nn.Linear:
        head: torch.nn.Linear = self.base.model.get_output_embeddings()
        return head

    def _kept(self, batch: FlatBatch, pieces: flat_attention.Pieces) -> torch.Tensor:
        """Passes a sequence through the base and the adapters; returns the head's inputs at the kept tokens."""
        # These stay until the next pass: gradient checkpointing runs the layers again in the backward pass.
        self._pass.spans, self._pass.ahead = batch.spans, {}
        self._pass.cast = self._cast()
        if self._grouped:
            self._stack()
        hidden_1TD = self.base.model.model(
            input_ids=batch.ids, position_ids=batch.positions, use_cache=False, pieces=pieces
        ).last_hidden_state
        kept_ND: torch.Tensor = hidden_1TD[0, batch.keep]
        return kept_ND

    def _dropping(self, segment: Segment) -> Segment:
        """Returns the segment, without a dropout key if its adapter drops nothing."""
        return segment if segment.slot in self._droppers else segment._replace(dropout=None)

    def _cast(self) -> dict[int, torch.Tensor]:
        """Returns the matrices that the pass computes in turn: id of the parameter -> copy; see `_pass`."""
        by_device: dict[torch.device, list[torch.Tensor]] = {}
        for siblings in self._siblings if self.base.dtype != torch.float32 else ():
            for span in self._pass.spans:
                own = [each for _, each in self._in_turn(siblings, span)]
                matrices = [*(each.a for each in own), *(each.b for each in own)]
                by_device.setdefault(lora_product.device(siblings.layers[0]), []).extend(matrices)
        cast: dict[int, torch.Tensor] = {}
        for of_device in by_device.values():
            copies = lora_product.cast(self.base.dtype, of_device)
            cast |= {id(matrix): copy for matrix, copy in zip(of_device, copies, strict=True)}
        return cast

    def _stack(self) -> None:
        """Stacks the matrices of the adapters that the pass computes together, for each group of sibling layers."""
        every = self._siblings
        ends = [span.stop for span in self._pass.spans]
        devices = [lora_product.device(siblings.layers[0]) for siblings in every]
        for device in dict.fromkeys(devices):
            own = [siblings for siblings, where in zip(every, devices, strict=True) if where == device]
            pairs = [
                [
                    [self._pair(siblings, place, span) for span in self._pass.spans]
                    for place in range(len(siblings.layers))
                ]
                for siblings in own
            ]
            found = grouped_product.stacks(pairs, ends, device, self.base.dtype)
            for siblings, stack in zip(own, found, strict=True):
                siblings.stack = stack

    def _pair(self, siblings: _Siblings, place: int, span: Span) -> grouped_product.LoraPair | None:
        adapter = siblings.adapters.get(span.segment.slot, {}).get(place)
        if adapter is None or not self._together(span, adapter):
            return None
        return grouped_product.LoraPair(adapter.a, adapter.b, adapter.scaling)

    def _together(self, span: Span, adapter: _Adapter) -> bool:
        """Tells whether an adapter is computed together with others in a layer."""
        fits = adapter.lengths is None and grouped_product.fits(adapter.a, adapter.b)
        return self._grouped and span.segment.dropout is None and fits

    def _in_turn(self, siblings: _Siblings, span: Span) -> list[tuple[int, _Adapter]]:
        """Returns place of a layer and adapter, for the adapters that are computed one after the other."""
        adapters = siblings.adapters.get(span.segment.slot, {})
        return [(place, each) for place, each in adapters.items() if not self._together(span, each)]

    def _computed(self, siblings: _Siblings, place: int) -> Callable[..., torch.Tensor]:

        def forward(x: torch.Tensor) -> torch.Tensor:
            ahead = self._pass.ahead
            of, outputs = ahead.pop((id(siblings), place), (None, None))
            if of is not x:
                for other, found in enumerate(self._outputs(siblings, x.reshape(-1, x.shape[-1]))):
                    ahead[id(siblings), other] = (x, found)
                _, outputs = ahead.pop((id(siblings), place))
            whole: torch.Tensor = outputs.view(*x.shape[:-1], -1)
            return whole

        return forward

    def _outputs(self, siblings: _Siblings, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Returns the outputs, each (tokens, out), of layers that share the input x: (tokens, in)."""
        parts, matrices, decomposed = [], [], []
        for span in self._pass.spans:
            for places, adapters in _sharing(self._in_turn(siblings, span), span):
                parts.append(_part(span, places, adapters[0], x))
                own = [[self._pass.cast.get(id(each), each) for each in (of.a, of.b)] for of in adapters]
                matrices += [each for pair in own for each in pair]
                if adapters[0].lengths is not None:
                    decomposed += [(parts[-1], *each) for each in zip(places, adapters, own, strict=True)]
        outputs = list(lora_product.products(x, siblings.layers, parts, matrices))
        for part, place, adapter, pair in decomposed:
            assert adapter.lengths is not None
            scaled = lora_product.Decomposed(siblings.layers[place], part._replace(of=(0,)), adapter.lengths, pair)
            outputs[place] = lora_product.with_lengths(outputs[place], x, scaled)
        if siblings.stack is not None:
            of = siblings.stack.of
            added = grouped_product.add([outputs[place] for place in of], x, siblings.stack)
            for place, output in zip(of, added, strict=True):
                outputs[place] = output
        return outputs


def _sharing(adapters: Sequence[tuple[int, _Adapter]], span: Span) -> list[tuple[tuple[int, ...], list[_Adapter]]]:
    """Groups places and adapters that share their inputs: all together without dropout, each alone with dropout."""
    if span.segment.dropout is not None:
        return [((place,), [adapter]) for place, adapter in adapters]
    return [(tuple(place for place, _ in adapters), [each for _, each in adapters])] if adapters else []


def _part(span: Span, places: tuple[int, ...], adapter: _Adapter, inputs: torch.Tensor) -> lora_product.Part:
    key, segment = span.segment.dropout, span.segment
    factors = None
    if key is not None:
        shape = (len(segment.rows), segment.longest, inputs.shape[-1])
        mask_RLI = dropout_mask(key, adapter.layer, adapter.dropout, shape, inputs.device)
        assert span.places is not None
        factors = mask_RLI.view(-1, inputs.shape[-1])[span.places.to(inputs.device)].to(inputs.dtype)
    return lora_product.Part(span.start, span.stop, adapter.scaling, factors, places)


def head_losses(hidden: torch.Tensor, head: torch.nn.Linear, answers: torch.Tensor) -> torch.Tensor:
    """Returns the negative log-probability of each answer: (tokens,), float32. The logits of all tokens never exist.

    The gradient of a token's loss by its hidden state, (softmax - one-hot) W, is computed together with the loss, chunk
    by chunk; the backward pass only scales it by the gradient that arrives. This costs no second product with the head,
    as recomputing in the backward pass would.

    Args:
        hidden: (tokens, width), the inputs of the head.
        answers: (tokens,).
    """
    losses: torch.Tensor = _HeadLoss.apply(hidden, head, answers)  # type: ignore[no-untyped-call]
    return losses


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.nn.Linear, answers: torch.Tensor) -> torch.Tensor:
        losses = torch.empty(len(answers), dtype=torch.float32, device=hidden.device)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # All chunks write their logits to the same memory: fresh pages cost as much as an operation on them.
        logits_NV = hidden.new_empty(min(LOGIT_TOKENS, len(answers)), head.out_features)
        for start in range(0, len(answers), LOGIT_TOKENS):
            chunk = slice(start, start + LOGIT_TOKENS)
            scores_NV = lora_product.multiply(
                hidden[chunk], head.weight, head.bias, logits_NV[: len(answers[chunk])]
            ).float()
            total_N = torch.cat([torch.logsumexp(few, dim=-1) for few in scores_NV.split(EXPONENT_TOKENS)])
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
