"""Rank, alpha, target modules and learning rate: the four knobs that decide most; the default for LoRA and QLoRA.

Everything else keeps the sweep file's value. The learning rate is in every space here, because it matters most: up to
14.2 points between its best and worst value against 13.1 for rank and 5.9 for alpha (PLoRA, arXiv 2508.02932, one knob
at a time on a 7B model).

The keys `prior` and the list `PORTFOLIO` say where to begin. Only the searcher named prior uses them, and less with
each result. Most of them come from Tinker's sweep. It measured the test loss of 35 base models (0.6B to 550B) at many
learning rates and ranks: one data set, batch 128, 780 steps, alpha 32 (thinking-machines-lab/tinker-cookbook,
recipes/chat_sl/results/sft_sweep.md at commit 9dfcc3a).
"""

from __future__ import annotations

SPACE: dict[str, object] = {
    # Source: PLoRA (arXiv 2508.02932) searches 8 to 128, QLoRA (arXiv 2305.14314, appendix A.1) 8 to 256, both in
    # powers of two. The range here ends at 64: parameters and memory grow with r, and QLoRA finds that r matters little
    # if all linear layers have an adapter.
    # Prior: a higher rank was at least as good in nearly all of Tinker's sweep; 32 costs half the memory of 64.
    "adapter.r": {"choice": [8, 16, 32, 64], "prior": 32},
    # Source: the space searches alpha itself, not alpha / r, so that one range of learning rates serves every r. In
    # Tinker's sweep, where alpha is 32 at every r, the best rate moves as r to the power of 0.17 (standard error 0.02,
    # 31 models, r 1 to 128). An update scales with alpha times the rate, so with a fixed alpha / r the best rate would
    # fall nearly as 1 / r. arXiv 2602.06204 finds the same. Three values around the usual 16 and 32 are enough, because
    # alpha and the rate act alike ("LoRA Without Regret", Thinking Machines 2025; QLoRA, appendix A.1, keeps alpha and
    # searches the rate). One value would not do, because they do not act quite alike (arXiv 2606.12883).
    # Prior: alpha in Tinker's sweep.
    "adapter.lora_alpha": {"choice": [16, 32, 64], "prior": 32},
    # Source: q and v as in LoRA (arXiv 2106.09685, section 7.1); all linear layers, which QLoRA (arXiv 2305.14314,
    # section 4) needs to match 16-bit; MLP layers alone, which beat attention alone at equal parameter counts ("LoRA
    # Without Regret"; PEFT's MetaMathQA comparison: 49.4 % against 47.8 %).
    # Prior: all linear layers, as QLoRA and "LoRA Without Regret" find.
    "adapter.target_modules": {"choice": ["attention-qv", "attention", "mlp", "all-linear"], "prior": "all-linear"},
    # Source: PLoRA's range is 2e-5 to 4e-4. The range here ends at 2e-3: LoRA's best rate is about 10 times that of
    # full fine-tuning, 15 times in runs under 100 steps ("LoRA Without Regret"), and trials of a sweep are short. One
    # range for all r: the best rate moves less than 2 times between r 4 and r 512 (same source).
    # Prior: between 3e-4, the best in about half of Tinker's sweep, and 1e-3, the best in a third.
    "training.learning_rate": {"loguniform": [2.0e-5, 2.0e-3], "prior": 5.0e-4},
}


def _point(r: int, lora_alpha: int, target_modules: str, learning_rate: float) -> dict[str, object]:
    return {
        "adapter.r": r,
        "adapter.lora_alpha": lora_alpha,
        "adapter.target_modules": target_modules,
        "training.learning_rate": learning_rate,
    }


PORTFOLIO: list[dict[str, object]] = [
    # Source: Tinker's sweep. At its highest rank, the better of the two rates below is within .001 nats of the best of
    # the whole grid for nearly all models.
    _point(32, 32, "all-linear", 3.0e-4),
    _point(32, 32, "all-linear", 1.0e-3),
    # Source: short runs want 15 times the rate of full fine-tuning instead of 10 ("LoRA Without Regret"). In this
    # project's quickstart, trials of 27 steps with batch size 2 did best above 2e-3.
    _point(16, 32, "all-linear", 2.0e-3),
    # Source: adapters in the MLP layers alone do as well as adapters in all layers at equal rank ("LoRA
    # Without Regret").
    _point(32, 64, "mlp", 3.0e-4),
]
