"""One adapter alone, as people train it: HF's model, PEFT's layers, bitsandbytes' 4-bit base, torch's AdamW."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

from trainables.base.base_model import Base
from trainables.data import dataset

RATE, RANK = 2.0e-4, 16


class Alone:
    """Trains one adapter of rank 16 on all linear layers; rows are padded within their batch."""

    def __init__(self, base: Base, rows: dataset.Splits, checkpointing: bool) -> None:
        """Takes over the base; `checkpointing` computes activations again in the backward pass."""
        self._rows, self._device, self._dtype, self._step = rows, base.device, base.dtype, 0
        model = prepare_model_for_kbit_training(
            base.model,
            use_gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        )
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model: Any = get_peft_model(model, config)
        self.model.train()
        self._trained = [each for each in self.model.parameters() if each.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=RATE, fused=True)

    def step(self, slots: int, batch: int) -> tuple[int, int, int]:
        """One optimizer step: 1, its tokens, and the labelled ones."""
        train = self._rows.train
        rows = [train.row(i) for i in dataset.batch_rows(0, len(train), self._step * batch, batch)]
        self._step += 1
        self.backward(rows)
        torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return 1, sum(len(row.ids) for row in rows), sum(row.labels for row in rows)

    def backward(self, rows: list[dataset.TokenRow]) -> None:
        """Forward and backward over the rows as one padded batch."""
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full((len(rows), longest), -100)
        seen = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, row in enumerate(rows):
            length = len(row.ids)
            ids[place, :length] = torch.from_numpy(row.ids)
            labels[place, :length] = torch.where(torch.from_numpy(row.labelled), ids[place, :length], -100)
            seen[place, :length] = 1
        ids, labels, seen = (each.to(self._device) for each in (ids, labels, seen))
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            loss = self.model(input_ids=ids, labels=labels, attention_mask=seen).loss
        loss.backward()
