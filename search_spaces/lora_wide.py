"""All settings of an adapter and its training that matter in studies; for budgets of 50 trials and more.

Alpha is searched itself, for plain LoRA (an update is scaled by alpha / r) and for rsLoRA (alpha / sqrt(r), arXiv
2312.03732) alike: with a fixed alpha, and under rsLoRA, one range of learning rates serves all r (arXiv 2602.06204; see
lora_core). At r 64 rsLoRA's updates are 8 times those of plain LoRA of the same alpha, and variants compare fairly
only where each finds the rate that it needs (arXiv 2602.04998): the range of rates is wide enough for both.

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
    # Source: as in lora_core, with 8 as well: 8 at r 64 is the scale 1 of rsLoRA, and PLoRA goes down to r/4. 64 at
    # r 64 with rsLoRA is the setting of PEFT's comparison (scale 8, learning rate 1e-4).
    # Prior: as in lora_core.
    "adapter.lora_alpha": {"choice": [8, 16, 32, 64], "prior": 32},
    # Source: QLoRA (arXiv 2305.14314, appendix A.1) searches these three and finds 0.05 useful at 7B and 13B, not at
    # 33B and 65B.
    "adapter.lora_dropout": {"choice": [0.0, 0.05, 0.1]},
    # Source: as in lora_core: LoRA (arXiv 2106.09685, section 7.1), QLoRA (section 4), "LoRA Without Regret".
    # Prior: as in lora_core.
    "adapter.target_modules": {"choice": ["attention-qv", "attention", "mlp", "all-linear"], "prior": "all-linear"},
    # Source: half of lora_core's low end and 2.5 times its high end. Low, because rsLoRA's updates are up to 11 times
    # as large at the same alpha, and scale and rate multiply ("LoRA Without Regret" on alpha and learning rate);
    # high, because alpha goes down to 8.
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


def _point(learning_rate: float, adapter: dict[str, object], target_modules: str = "all-linear") -> dict[str, object]:
    return {
        **adapter,
        "adapter.lora_dropout": 0.0,
        "adapter.target_modules": target_modules,
        "training.learning_rate": learning_rate,
        "training.batch_size": 4,
        "training.schedule": "constant",
        "training.warmup_ratio": 0.02,
        "training.weight_decay": 0.0,
    }


_PLAIN: dict[str, object] = {"adapter.r": 32, "adapter.use_rslora": False, "adapter.lora_alpha": 32}
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
