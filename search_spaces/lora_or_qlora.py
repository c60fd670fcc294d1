"""LoRA or QLoRA: the scheme of the base beside the four knobs of lora_core; for budgets of 12 trials and more.

All trials are on one model with one tokenizer, so that their losses compare row by row. Each scheme is a base of its
own: hosts load one at a time. A scheme gets a share of the trials, and early stopping ranks all of them together.
"""

from __future__ import annotations

from search_spaces import lora_core

SPACE: dict[str, object] = {
    # Source: QLoRA (arXiv 2305.14314, section 4) finds nf4 as good as 16 bits, and fp4 worse. fp4 takes the same memory
    # as nf4, and is left out: add it where the question is about it.
    # Prior: nf4, which fits the smaller GPU.
    # A grid: random search gives each scheme as many trials.
    "quantization.scheme": {"grid": ["nf4", "none"], "prior": "nf4"},
    # Source: these four are as in lora_core. No study finds that the best of them moves with the scheme.
    "adapter.r": lora_core.SPACE["adapter.r"],
    # Source: as above.
    "adapter.lora_alpha": lora_core.SPACE["adapter.lora_alpha"],
    # Source: as above.
    "adapter.target_modules": lora_core.SPACE["adapter.target_modules"],
    # Source: as above.
    "training.learning_rate": lora_core.SPACE["training.learning_rate"],
}

PORTFOLIO: list[dict[str, object]] = [
    # Source: each of the first two points of lora_core on both bases, so that the bases are compared at equal settings.
    {"quantization.scheme": scheme, **point}
    for point in lora_core.PORTFOLIO[:2]
    for scheme in ("nf4", "none")
]
