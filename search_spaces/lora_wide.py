"""All settings of an adapter and its training that matter in studies; for budgets of 50 trials and more.

rsLoRA scales by alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732), so a ratio to r would multiply the step size
by sqrt(r), 11 times at r 128. Variants compare fairly only over ranges of their own (arXiv 2602.04998). Hence two
conditions: plain LoRA searches alpha as a ratio to r, rsLoRA searches alpha itself, and no point has both.

`prior` and `PORTFOLIO` work as in lora_core, which also names the source that is called Tinker's sweep.
"""

from __future__ import annotations

SPACE: dict[str, object] = {
    # Source: PLoRA (arXiv 2508.02932) searches 8 to 128; 4 and the independence of the best learning rate from r come
    # from "LoRA Without Regret" (Thinking Machines 2025), which measured r 4 to 512.
    # Prior: as in lora_core.
    "adapter.r": {"choice": [4, 8, 16, 32, 64, 128], "prior": 32},
    # Source: rsLoRA (arXiv 2312.03732) for high r; 51.3 % with it against 47.4 % without at r 64 in PEFT's MetaMathQA
    # comparison (Llama-3.2-3B).
    "adapter.use_rslora": {"choice": [False, True]},
    # Source: PLoRA's range, r/4 to 4r. QLoRA's own scripts are at its lower end (alpha 16 at r 64), the usual advice
    # (r or 2r) in its middle.
    # Prior: as in lora_core.
    "adapter.alpha_over_r": {"choice": [0.25, 0.5, 1, 2, 4], "prior": 1, "when": {"adapter.use_rslora": False}},
    # Source: derived from alpha / sqrt(r). 64 at r 64 is the setting of PEFT's comparison (scale 8, learning rate
    # 1e-4); 8 at r 16 to 64 gives the scales 1 to 2 of plain LoRA's usual ratios.
    "adapter.lora_alpha": {"choice": [8, 16, 32, 64], "when": {"adapter.use_rslora": True}},
    # Source: QLoRA (arXiv 2305.14314, appendix A.1) searches these three and finds 0.05 useful at 7B and 13B, not at
    # 33B and 65B.
    "adapter.lora_dropout": {"choice": [0.0, 0.05, 0.1]},
    # Source: as in lora_core: LoRA (arXiv 2106.09685, section 7.1), QLoRA (section 4), "LoRA Without Regret".
    # Prior: as in lora_core.
    "adapter.target_modules": {"choice": ["attention-qv", "attention", "mlp", "all-linear"], "prior": "all-linear"},
    # Source: half of lora_core's low end and 2.5 times its high end. Low, because scales here reach 32 (alpha 64 at
    # r 4 with rsLoRA) and scale and rate multiply ("LoRA Without Regret" on alpha and learning rate); high, because
    # scales go down to a quarter.
    # Prior: as in lora_core.
    "training.learning_rate": {"loguniform": [1.0e-5, 5.0e-3], "prior": 5.0e-4},
    # Source: PLoRA searches 1 to 32 and finds the best at 4 or less; LoRA pays for large batches whatever its r ("LoRA
    # Without Regret"). So 32 is left out.
    # Prior: 4, the largest of PLoRA's best.
    "training.batch_size": {"choice": [1, 2, 4, 8, 16], "prior": 4},
    # Source: constant in QLoRA (appendix B.2) and "LoRA Without Regret", cosine in PEFT's comparison, linear the
    # default of transformers.
    "training.schedule": {"choice": ["constant", "linear", "cosine"]},
    # Source: QLoRA's scripts warm up over 0.03 of the steps; 0.02 is the default here, since early stopping wants it
    # short. 0.0 and 0.1 are our bracket around it, without a study.
    "training.warmup_ratio": {"choice": [0.0, 0.02, 0.1]},
    # Source: 0.0 in QLoRA's scripts, 0.1 in PEFT's comparison.
    "training.weight_decay": {"choice": [0.0, 0.1]},
}


def _point(learning_rate: float, scaling: dict[str, object], target_modules: str = "all-linear") -> dict[str, object]:
    return {
        **scaling,
        "adapter.lora_dropout": 0.0,
        "adapter.target_modules": target_modules,
        "training.learning_rate": learning_rate,
        "training.batch_size": 4,
        "training.schedule": "constant",
        "training.warmup_ratio": 0.02,
        "training.weight_decay": 0.0,
    }


_PLAIN: dict[str, object] = {"adapter.r": 32, "adapter.use_rslora": False, "adapter.alpha_over_r": 1}
_RSLORA: dict[str, object] = {"adapter.r": 64, "adapter.use_rslora": True, "adapter.lora_alpha": 64}

PORTFOLIO: list[dict[str, object]] = [
    # Source: as in lora_core; a constant rate as in QLoRA (appendix B.2) and "LoRA Without Regret".
    _point(3.0e-4, _PLAIN),
    _point(1.0e-3, _PLAIN),
    # Source: the rsLoRA setting of PEFT's MetaMathQA comparison, whose rate is 1e-4.
    _point(1.0e-4, _RSLORA, "attention-qv"),
    # Source: short runs want a higher rate, as in lora_core.
    _point(2.0e-3, _PLAIN),
]
