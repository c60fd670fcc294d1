"""Rank, alpha, target modules and learning rate: the four knobs that decide most; the default for LoRA and QLoRA.

Everything else keeps the sweep file's value. The learning rate is in every space here, because it matters most: up to
14.2 points between its best and worst value against 13.1 for rank and 5.9 for alpha (PLoRA, arXiv 2508.02932, one knob
at a time on a 7B model).
"""

from __future__ import annotations

SPACE: dict[str, object] = {
    # Source: PLoRA (arXiv 2508.02932) searches 8 to 128, QLoRA (arXiv 2305.14314, appendix A.1) 8 to 256, both in
    # powers of two. It ends at 64: parameters and memory grow with r, and QLoRA finds r to matter little once all
    # linear layers have an adapter.
    "adapter.r": {"choice": [8, 16, 32, 64]},
    # Source: alpha equal to r or twice r, the usual values; the middle of PLoRA's r/4 to 4r. A ratio, so that another
    # r is not another step size; only two values, because alpha and the learning rate largely do the same ("LoRA
    # Without Regret", Thinking Machines 2025; QLoRA, appendix A.1, keeps alpha and searches the learning rate).
    "adapter.alpha_over_r": {"choice": [1, 2]},
    # Source: q and v as in LoRA (arXiv 2106.09685, section 7.1); all linear layers, which QLoRA (arXiv 2305.14314,
    # section 4) needs to match 16-bit; MLP layers alone, which beat attention alone at equal parameter counts ("LoRA
    # Without Regret"; PEFT's MetaMathQA comparison: 49.4 % against 47.8 %).
    "adapter.target_modules": {"choice": ["attention-qv", "attention", "mlp", "all-linear"]},
    # Source: PLoRA's range is 2e-5 to 4e-4. It ends at 2e-3 here, because LoRA's best rate is about 10 times that of
    # full fine-tuning, 15 times in runs under 100 steps ("LoRA Without Regret"), and trials of a sweep are short. One
    # range for all r: the best rate moves less than 2 times between r 4 and r 512 (same source).
    "training.learning_rate": {"loguniform": [2.0e-5, 2.0e-3]},
}
