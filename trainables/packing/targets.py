"""Turns a preset or module names into the names by which PEFT selects exactly the intended layers.

The kind of a layer follows from its place in the module tree of the model, so a preset means the same on every
architecture. Heads, routers, and vision and audio towers are always left out, because text does not train them. Experts
are left out because they cannot be trained side by side.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from trainables.contract import Target, TargetModules
from trainables.errors import InfeasibleError
from trainables.inputs.similar import closest, did_you_mean

if TYPE_CHECKING:
    from torch import nn

PRESETS: tuple[str, ...] = ("attention-qv", "attention", "mlp", "all-linear")

_FIELD = "adapter.target_modules"
_HEADS = frozenset({"lm_head", "embed_out", "score", "classifier", "qa_outputs"})
# Routers choose experts, and an indexer chooses tokens by top-k, which passes no gradient back.
_ROUTERS = frozenset({"router", "gate", "shared_expert_gate", "indexer"})
# Each expert gets the tokens of all rows that chose it, so it is no longer known which adapter a token needs.
_EXPERT = re.compile(r"(^|[._])experts?\.\d+\.")
_TOWERS = re.compile(r"vision|visual|image|audio|speech", re.IGNORECASE)
# transformers 5.24, modeling_*.py: the linear layers of a block, the same in each of these types.
_LLAMA_LIKE = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"})
_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_FUSED_LAYERS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
_ANCESTORS: Mapping[str, re.Pattern[str]] = {
    "attention": re.compile(r"attn|attention", re.IGNORECASE),
    "mlp": re.compile(r"mlp|ffn|feed_?forward|dense_?relu|expert", re.IGNORECASE),
    "state-space": re.compile(r"mamba|ssm", re.IGNORECASE),
}
# OPT and XGLM have fc1 and fc2 in the block itself, without an MLP module.
_MLP_LEAF = re.compile(r"fc_?(1|2|in|out)|c_fc|w[io](_[01])?|dense_(h_to_4h|4h_to_h)|(gate|up|down|gate_up)_proj")
_QV_LEAF = re.compile(
    r"(w_?|to_)?(q|v|kv|qkv)(_[ab])?(_proj|_lin)?(_with_mqa)?"  # q_proj, Wqkv, kv_a_proj_with_mqa
    r"|(query|value)(_proj)?|query_key_value|key_value|c_attn|q_attn|w_pack|in_proj_qkvz?",
    re.IGNORECASE,
)


def check_name(target_modules: str | tuple[str, ...]) -> str | None:
    """Returns the problem of a preset or of a list of names, as "field: what is wrong", or None. Needs no model."""
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


def check_known(target_modules: TargetModules, model_type: str) -> str | None:
    """Checks layer names as `check_name`, for model types whose layers are known without the model; else None."""
    leaves = _LAYERS if model_type in _LLAMA_LIKE else _FUSED_LAYERS if model_type == "phi3" else None
    if isinstance(target_modules, str) or leaves is None:
        return None
    return next(
        (_no_layer(name, leaves, ", ".join(leaves)) for name in target_modules if _leaf(name) not in leaves), None
    )


def resolve(model: nn.Module, target_modules: str | tuple[str, ...]) -> tuple[str, ...]:
    """Returns names for `LoraConfig.target_modules` that select exactly the intended layers, in the order of the model.

    A name is short (`q_proj`, or `attn.c_proj` if `c_proj` alone would select too much) if a short name selects
    exactly, else full: PEFT matches a whole name or its end after a dot (peft 0.21 tuners/tuners_utils.py,
    check_target_module_exists). The result is the same on a model that already has adapters.

    Presets choose among `torch.nn.Linear` (bitsandbytes' Linear4bit is one) and transformers' Conv1D in the blocks:

    - attention-qv: query and value projections. If they are fused with the key (`c_attn`, `qkv_proj`,
      `query_key_value`, `Wqkv`; `kv_b_proj` in latent attention), the fused layer: the key is then adapted too.
    - attention: every projection in attention, with the output.
    - mlp: every layer of the feed-forward part, shared experts too.
    - all-linear: every linear layer of the blocks, except in state-space mixers, whose fused kernels read weights past
      an adapter. PEFT's own "all-linear" also takes these, routers, and layers outside the blocks.

    Args:
        model: A transformers model, or a PeftModel around one.
        target_modules: A preset, or names that each match at least one linear layer.

    Raises:
        InfeasibleError: Nothing matches, or PEFT would adapt other tensors than the matching ones.
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
    """Returns the result of `resolve`, with its error as the problem of the target."""
    try:
        return Target(value=target_modules, modules=resolve(model, target_modules))
    except InfeasibleError as error:
        return Target(value=target_modules, problem=str(error))


def _base_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Returns name -> module as if the model had no adapters. The first entry is "" -> the model itself."""
    unwrap = getattr(model, "get_base_model", None)
    base: nn.Module = unwrap() if unwrap is not None else model
    # PEFT puts its own layer in place of the original one, which becomes its child `base_layer`.
    return {
        name.removesuffix(".base_layer"): module for name, module in base.named_modules() if ".lora_" not in f".{name}"
    }


def _adaptable(modules: Mapping[str, nn.Module]) -> list[str]:
    """Returns the full names of the linear layers that may be adapted."""
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
        and not _EXPERT.search(name)
    ]


def _kind(name: str, modules: Mapping[str, nn.Module]) -> str:
    """Returns attention, mlp, state-space or other, from the innermost ancestor with a telling name or class."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        ancestor = f"{parts[depth - 1]} {type(modules['.'.join(parts[:depth])]).__name__}"
        for kind, pattern in _ANCESTORS.items():
            if pattern.search(ancestor):
                return kind
    return "mlp" if _MLP_LEAF.fullmatch(parts[-1]) else "other"


def _of_preset(preset: str, linears: list[str], modules: Mapping[str, nn.Module]) -> list[str]:
    # A number in a name is the place in a stack of blocks. Projections of embeddings and heads are outside the stack.
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
    if any(map(_EXPERT.search, modules)):
        experts = "; its experts are given the tokens of all trials mixed, so they cannot be adapted"
    raise InfeasibleError(
        f"{_FIELD}: {preset} matches no layer of {type(modules['']).__name__}{experts}; "
        f"its linear layers are {_census(linears)}: {way_out}"
    )


def _of_names(entries: tuple[str, ...], linears: list[str]) -> list[str]:
    """Returns the layers of `linears` that PEFT would match by explicit names."""
    leaves = list(dict.fromkeys(map(_leaf, linears)))
    for entry in entries:
        if not any(_matches(entry, name) for name in linears):
            raise InfeasibleError(_no_layer(entry, leaves, _census(linears)))
    return [name for name in linears if any(_matches(entry, name) for entry in entries)]


def _no_layer(entry: str, leaves: Sequence[str], has: str) -> str:
    similar = closest(_leaf(entry), leaves)
    meant = f"; the closest is {similar[0]}" if similar else ""
    return (
        f"{_FIELD}: {entry!r} matches no linear layer that can be adapted (heads, routers, vision and audio "
        f"towers never are, nor single experts){meant}; the model has {has}"
    )


def _shorten(chosen: Collection[str], modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Returns the shortest names without a number that select `chosen` and nothing else, or else full names."""
    others = {suffix for name in modules.keys() - set(chosen) for suffix in _suffixes(name)}

    def shortest(name: str) -> str:
        usable = (s for s in _suffixes(name) if s not in others and not any(part.isdigit() for part in s.split(".")))
        return next(usable, name)

    return tuple(dict.fromkeys(map(shortest, chosen)))


def _refuse_rewritten(names: tuple[str, ...], model: nn.Module) -> None:
    """Raises InfeasibleError if PEFT would adapt stacked expert tensors instead of the named layers.

    In the mixture-of-experts models that transformers 5 restructured, PEFT takes `gate_proj`, `up_proj` and
    `down_proj` for the experts of version 4, even if a dense layer or a shared expert has that name (peft 0.21
    utils/transformers_weight_conversion.py). Adapters on such tensors cannot train side by side.
    """
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    lost = []
    for name in names:
        config = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(config, model, None)
        except ValueError:  # one half of a fused pair, which PEFT would rewrite together with the other half
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
    """Returns `c`, `b.c` and `a.b.c` for a.b.c."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def _census(linears: list[str]) -> str:
    """Counts the layers by the last part of their names, such as `q_proj (2), k_proj (2)`."""
    counts = Counter(map(_leaf, linears))
    return ", ".join(f"{leaf} ({count})" for leaf, count in counts.items()) or "none"
