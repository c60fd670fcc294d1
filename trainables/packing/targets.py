"""Resolves target modules: from a preset or module names to names by which PEFT selects exactly the layers meant.

Layers are told apart by where they stand in the model's own module tree, so one preset means the same on every
architecture. What text never trains is left out always: heads, routers, vision and audio towers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from trainables.contract import Target
from trainables.errors import InfeasibleError
from trainables.inputs.similar import closest, did_you_mean

if TYPE_CHECKING:
    from torch import nn

PRESETS: tuple[str, ...] = ("attention-qv", "attention", "mlp", "all-linear")

_FIELD = "adapter.target_modules"
_HEADS = frozenset({"lm_head", "embed_out", "score", "classifier", "qa_outputs"})
# They choose among experts or tokens; an indexer's choice (top-k) passes no gradient back.
_ROUTERS = frozenset({"router", "gate", "shared_expert_gate", "indexer"})
_TOWERS = re.compile(r"vision|visual|image|audio|speech", re.IGNORECASE)
_ANCESTORS: Mapping[str, re.Pattern[str]] = {
    "attention": re.compile(r"attn|attention", re.IGNORECASE),
    "mlp": re.compile(r"mlp|ffn|feed_?forward|dense_?relu|expert", re.IGNORECASE),
    "state-space": re.compile(r"mamba|ssm", re.IGNORECASE),
}
# OPT and XGLM keep fc1 and fc2 in the block itself.
_MLP_LEAF = re.compile(r"fc_?(1|2|in|out)|c_fc|w[io](_[01])?|dense_(h_to_4h|4h_to_h)|(gate|up|down|gate_up)_proj")
_QV_LEAF = re.compile(
    r"(w_?|to_)?(q|v|kv|qkv)(_[ab])?(_proj|_lin)?(_with_mqa)?"  # q_proj, Wqkv, kv_a_proj_with_mqa
    r"|(query|value)(_proj)?|query_key_value|key_value|c_attn|q_attn|w_pack|in_proj_qkvz?",
    re.IGNORECASE,
)


def check_name(target_modules: str | tuple[str, ...]) -> str | None:
    """The problem with a preset's name or a list of names, as "field: what is wrong", or None. Needs no model."""
    if isinstance(target_modules, str):
        if target_modules in PRESETS:
            return None
        meant = did_you_mean(target_modules, PRESETS) or "."
        return (
            f"{_FIELD}: {target_modules!r} is not a preset{meant} The presets are {', '.join(PRESETS)}; "
            "module names are given as a list, for example [q_proj, v_proj]"
        )
    for name in target_modules:
        if name in PRESETS:
            return f"{_FIELD}: {name!r} in a list is a module name; write the preset as a plain word, without brackets"
        if not name.strip("."):
            return f"{_FIELD}: {name!r} is not a module name; leave it out of the list"
    return None


def resolve(model: nn.Module, target_modules: str | tuple[str, ...]) -> tuple[str, ...]:
    """Names for `LoraConfig.target_modules` that select exactly the layers meant, in the order of the model.

    Short names (`q_proj`, or `attn.c_proj` where the last part alone would select too much) wherever they select
    exactly, else full names: PEFT matches a whole name or the end of one after a dot (peft 0.21
    tuners/tuners_utils.py, check_target_module_exists). The answer is the same on a model that carries adapters.

    Presets choose among `torch.nn.Linear` (bitsandbytes' Linear4bit is one) and transformers' Conv1D in the blocks:

    - attention-qv: query and value projections. Where they exist only fused with the key (`c_attn`, `qkv_proj`,
      `query_key_value`, `Wqkv`; `kv_b_proj` in latent attention) the fused layer, so that the key is adapted too.
    - attention: every projection in attention, the output included.
    - mlp: every layer of the feed-forward part, experts included where they are linear layers.
    - all-linear: every linear layer of the blocks. PEFT's own "all-linear" also takes routers and layers outside the
      blocks; this one leaves out state-space mixers too, whose fused kernels read weights past an adapter.

    Args:
        model: A transformers model, or a PeftModel around one.
        target_modules: A preset, or names that each match at least one linear layer.

    Raises:
        InfeasibleError: Nothing matches, or PEFT would adapt other tensors than the ones that match.
    """
    problem = check_name(target_modules)
    if problem is not None:
        raise InfeasibleError(problem)
    modules = _base_modules(model)
    linears = _adaptable(modules)
    if isinstance(target_modules, str):
        chosen = _of_preset(target_modules, linears, modules)
    else:
        chosen = _of_names(target_modules, linears)
    names = _shorten(chosen, modules)
    _refuse_rewritten(names, next(iter(modules.values())))
    return names


def answer(model: nn.Module, target_modules: str | tuple[str, ...]) -> Target:
    """`resolve`, with what stands in its way as a value."""
    try:
        return Target(value=target_modules, modules=resolve(model, target_modules))
    except InfeasibleError as error:
        return Target(value=target_modules, problem=str(error))


def _base_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> module, the model itself first under "", as if no adapter were attached."""
    unwrap = getattr(model, "get_base_model", None)
    base: nn.Module = unwrap() if unwrap is not None else model
    # PEFT's layer stands in the place of the original, which becomes its `base_layer` and is named after it.
    return {
        name.removesuffix(".base_layer"): module for name, module in base.named_modules() if ".lora_" not in f".{name}"
    }


def _adaptable(modules: Mapping[str, nn.Module]) -> list[str]:
    """Full names of the linear layers that training on text may adapt."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    get_head = getattr(modules[""], "get_output_embeddings", None)
    head = get_head() if get_head is not None else None
    return [
        name
        for name, module in modules.items()
        if isinstance(module, (nn.Linear, Conv1D))
        and module is not head
        and not (_HEADS | _ROUTERS).intersection(name.split("."))
        and not _TOWERS.search(name.rpartition(".")[0])
    ]


def _kind(name: str, modules: Mapping[str, nn.Module]) -> str:
    """attention, mlp, state-space or other: by the innermost ancestor that tells, by attribute or class name."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        ancestor = f"{parts[depth - 1]} {type(modules['.'.join(parts[:depth])]).__name__}"
        for kind, pattern in _ANCESTORS.items():
            if pattern.search(ancestor):
                return kind
    return "mlp" if _MLP_LEAF.fullmatch(parts[-1]) else "other"


def _of_preset(preset: str, linears: list[str], modules: Mapping[str, nn.Module]) -> list[str]:
    """The layers of `linears` that a preset means."""
    # A numbered part stands for a place in a stack of blocks; embeddings' projections and heads are outside it.
    kinds = {name: _kind(name, modules) for name in linears if any(part.isdigit() for part in name.split("."))}
    members = {
        "attention-qv": [n for n, kind in kinds.items() if kind == "attention" and _QV_LEAF.fullmatch(_leaf(n))],
        "attention": [n for n, kind in kinds.items() if kind == "attention"],
        "mlp": [n for n, kind in kinds.items() if kind == "mlp"],
        "all-linear": [n for n, kind in kinds.items() if kind != "state-space"],
    }
    if members[preset]:
        return members[preset]
    others = ", ".join(name for name in PRESETS if members[name])
    way_out = f"use a preset that matches ({others}) or a list of these names" if others else "list some of these names"
    stacked = sorted({_leaf(n) for n, p in modules[""].named_parameters() if "expert" in n and p.ndim > 2})
    experts = f"; its experts are stacked tensors ({', '.join(stacked)}), not linear layers" if stacked else ""
    raise InfeasibleError(
        f"{_FIELD}: {preset} matches no layer of {type(modules['']).__name__}{experts}; "
        f"its linear layers are {_census(linears)}: {way_out}"
    )


def _of_names(entries: tuple[str, ...], linears: list[str]) -> list[str]:
    """The layers of `linears` that explicit names match, as PEFT matches them."""
    leaves = list(dict.fromkeys(map(_leaf, linears)))
    for entry in entries:
        if not any(_matches(entry, name) for name in linears):
            similar = closest(_leaf(entry), leaves)
            meant = f"; the closest is {similar[0]}" if similar else ""
            raise InfeasibleError(
                f"{_FIELD}: {entry!r} matches no linear layer that can be adapted (heads, routers, vision and audio "
                f"towers never are){meant}; the model has {_census(linears)}"
            )
    return [name for name in linears if any(_matches(entry, name) for entry in entries)]


def _shorten(chosen: Collection[str], modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """The shortest names without a layer number that select `chosen` and nothing else; a full name where none does."""
    others = {suffix for name in modules.keys() - set(chosen) for suffix in _suffixes(name)}

    def shortest(name: str) -> str:
        usable = (s for s in _suffixes(name) if s not in others and not any(part.isdigit() for part in s.split(".")))
        return next(usable, name)

    return tuple(dict.fromkeys(map(shortest, chosen)))


def _refuse_rewritten(names: tuple[str, ...], model: nn.Module) -> None:
    """Raises where PEFT would adapt stacked expert tensors in place of the layers named.

    In the mixture-of-experts models that transformers 5 restructured, PEFT takes `gate_proj`, `up_proj` and
    `down_proj` for the experts of version 4, also where a dense layer or a shared expert bears the name (peft 0.21
    utils/transformers_weight_conversion.py); adapters on such tensors cannot train side by side.
    """
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    lost = []
    for name in names:
        config = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(config, model, None)
        except ValueError:  # one half of a fused pair: rewritten too, had the other half been there
            lost.append(name)
            continue
        if set(config.target_modules or ()) != {name}:
            lost.append(name)
    if lost:
        raise InfeasibleError(
            f"{_FIELD}: PEFT takes {', '.join(lost)} of {type(model).__name__} for stacked expert tensors, which "
            "can't be adapted here; use another preset, or a list without these names"
        )


def _matches(entry: str, name: str) -> bool:
    return name == entry or name.endswith(f".{entry}")


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _suffixes(name: str) -> list[str]:
    """`c`, `b.c`, `a.b.c` of a.b.c."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def _census(linears: list[str]) -> str:
    """`q_proj (2), k_proj (2)`: last parts of names, each with its count."""
    counts = Counter(map(_leaf, linears))
    return ", ".join(f"{leaf} ({count})" for leaf, count in counts.items()) or "none"
