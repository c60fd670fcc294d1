"""Plans, looks up and calibrates a sweep with the devices, disk and stored rates of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

from cluster import devices, gpu_table
from cluster.libraries import silence
from sweeps.config import bases
from sweeps.config.load import LoadedSweep
from sweeps.config.model import ClusterConfig, SweepConfig, size_bytes
from sweeps.config.number_words import counted
from sweeps.config.points import Scalar
from sweeps.config.uris import work_folder
from sweeps.errors import ConfigError
from sweeps.planning import advice, auto_trials, capacity, plan, rates
from sweeps.planning.forecast import Forecast, RowsAndRates
from sweeps.planning.lora_or_qlora import GpuAdvice, choices
from sweeps.record.folder import SweepFolder, read_events
from trainables import catalogue
from trainables.contract import Device, Need, RowShape, Summary
from trainables.errors import NotTrainable
from trainables.packing.memory import MAX_SLOTS
from trainables.specs import QuantizationSpec


def look_up(sweep: LoadedSweep) -> list[str]:
    """Checks the model and data sets over the network; returns notices for the user.

    Raises:
        ConfigError: a model or a data set does not exist, may not be read, or cannot be reached from here.
    """
    config = sweep.config
    trainable = catalogue.find(config.trainable)
    with catalogue.answering(f"trainable: {config.trainable}: its look_up"):
        looked_up = trainable.look_up(config.base, devices.cache())
    runs_here = config.cluster.has_own_ray
    if wrong := [*looked_up.problems, *(looked_up.unreachable if runs_here else ())]:
        raise ConfigError(wrong)
    elsewhere = [f"{line}; the nodes of the Ray cluster may reach it" for line in looked_up.unreachable]
    return [*elsewhere, *looked_up.notices]


def fetch_config(sweep: LoadedSweep) -> bool:
    """Fetches a configuration that the plan lacks. Returns True if it is there now: then read the sweep again."""
    config, trainable = sweep.config, catalogue.find(sweep.config.trainable)
    with catalogue.answering(f"trainable: {config.trainable}: its fetch_config"):
        return bool(trainable.fetch_config(config.base))


def plan_here(sweep: LoadedSweep, to_launch: bool = False) -> plan.Plan:
    """Plans a sweep for this machine, for a Ray cluster, or for the GPU that `cluster.gpu` or `gpu_memory` names.

    With `to_launch`, a sweep that runs here is planned for this machine's own device. Raises ConfigError if
    `budget.disk` does not hold one adapter.
    """
    machine = machine_of(sweep.config, to_launch)
    need, known, told = _known(sweep, machine)
    _check_disk(sweep.config, need)
    planned = plan.plan(sweep.config, sweep.space, need, machine, known)
    if bases.are_searched(sweep.config):
        planned, more = plan.on_bases(planned, _on_each_base(sweep, machine))
        told += more
    engine = catalogue.engine(catalogue.find(sweep.config.trainable), sweep.config.base)
    alone = _need(sweep, replace(machine, spread=1), known.rows) if machine.gpus > 1 else None
    spread = advice.spread_warnings(machine.spread, alone, machine.free_bytes)
    unseen = _unseen(sweep.config.cluster, machine)
    planned = replace(planned, engine=engine, warnings=(*unseen, *planned.warnings, *spread, *told, *sweep.notices))
    if to_launch:
        # A launch reports on the data when all rows are ready.
        return replace(planned, rows_per_trial=None)
    warnings = (*planned.warnings, *sweep.preview.warnings)
    choices = _choices(sweep, known.rows)
    rows = sweep.preview.model_dump(include={"train_rows", "eval_rows", "test_rows"})
    return replace(planned, **rows, warnings=warnings, choices=choices)


def _on_each_base(sweep: LoadedSweep, machine: capacity.Machine) -> dict[str, plan.Plan]:
    """Returns base -> the plan of the sweep as if all its trials were on this base."""
    found = {}
    for spec in bases.of(sweep.config, sweep.space):
        own = replace(sweep, config=sweep.config.model_copy(update={"quantization": spec.quantization}))
        need, known, _ = _known(own, machine)
        found[spec.base_name] = plan.plan(own.config, own.space, need, machine, known)
    return found


def with_trials(sweep: LoadedSweep, to_launch: bool = False) -> tuple[LoadedSweep, str | None]:
    """Replaces `budget.trials: auto` with a number (see `auto_trials`); else returns the same sweep and None."""
    if sweep.config.budget.trials != "auto":
        return sweep, None
    machine = machine_of(sweep.config, to_launch)
    need, known, _ = _known(sweep, machine)

    def over_bases(tried: LoadedSweep) -> Forecast:
        each = _on_each_base(tried, machine)
        guessed = next((own.forecast for own in each.values() if not own.forecast.is_measured), None)
        return guessed or plan.on_bases(next(iter(each.values())), each)[0].forecast

    several = over_bases if bases.are_searched(sweep.config) else None
    return auto_trials.with_auto_trials(sweep, need, machine, known, several)


def _known(sweep: LoadedSweep, machine: capacity.Machine) -> tuple[Need | None, RowsAndRates, list[str]]:
    """Returns the memory, the rows and rates, and a warning where `gradient_checkpointing: auto` will be on."""
    store, told = rates.read_rates(rates.file()), list[str]()
    shape = store.shape(sweep.config)
    try:
        need = _need(sweep, machine, shape)
        is_auto = sweep.config.training.gradient_checkpointing == "auto"
        if is_auto and need is not None and machine.free_bytes is not None and need.total(1) > machine.free_bytes:
            need = _need(sweep, machine, shape, gradient_checkpointing=True)
            told.append(
                "training.gradient_checkpointing auto: not one of the largest trials fits otherwise, so hosts compute "
                "activations anew in the backward pass, about a third more arithmetic"
            )
    except NotTrainable as error:
        raise NotTrainable(f"trainable: {sweep.config.trainable}: {error}") from error
    key = None if machine.device_name is None else rates.rate_key(sweep.config, machine.device_name)
    known = RowsAndRates(
        rates=store.rates,
        key=key,
        rows=shape,
        eval_rows=sweep.preview.eval_rows,
        row_tokens=sweep.preview.row_tokens,
        work=None if need is None else need.work,
        types=_types(sweep.config.cluster, machine),
    )
    return need, known, told


def _types(cluster: ClusterConfig, machine: capacity.Machine) -> tuple[str, ...]:
    """Returns the types that the hosts' GPUs may be; see `gpu_table.types`."""
    memory = None if cluster.gpu_memory is None else size_bytes(cluster.gpu_memory)
    return gpu_table.types(machine.device_name, memory) if machine.gpus else ()


def _need(sweep: LoadedSweep, machine: capacity.Machine, rows: RowShape | None, **training: bool) -> Need | None:
    changed = sweep.config.training.model_copy(update=training)
    config, trainable = sweep.config.model_copy(update={"training": changed}), catalogue.find(sweep.config.trainable)
    base, *trials = (config.base, *capacity.largest(config, sweep.space))
    if machine.lacks_bfloat16:
        base, *trials = (spec.without_bfloat16() for spec in (base, *trials))
    return catalogue.need(trainable, base, trials, machine.device, rows, machine.spread)


def with_one_slot(sweep: LoadedSweep, gpus: int) -> dict[Device | Literal["cuda float32"], int]:
    """Estimates the bytes of a host with one adapter, on its fullest GPU; omits devices without an estimate.

    The keys are those of the doctor's `Needs`. Raises NotTrainable if the trainable's estimate fails.
    """
    shape = rates.read_rates(rates.file()).shape(sweep.config)
    cpu, gpu = capacity.Machine("cpu", 1, None), capacity.Machine("cuda", 1, None, spread=gpus)
    kinds: dict[Device | Literal["cuda float32"], capacity.Machine]
    kinds = {"cpu": cpu, "cuda": gpu, "cuda float32": replace(gpu, lacks_bfloat16=True)}
    needs = {kind: _need(sweep, machine, shape) for kind, machine in kinds.items()}
    return {kind: need.total(1) for kind, need in needs.items() if need is not None}


def calibrate(sweep: LoadedSweep) -> None:
    """Measures this machine's rate for a sweep, and stores it with the shape of the rows.

    Raises:
        ConfigError: the sweep is planned for a device that this machine does not have, or nothing can be trained.
    """
    from sweeps.planning import measuring

    silence()
    machine = machine_of(sweep.config, to_launch=True)
    if not sweep.config.cluster.has_own_ray:
        raise ConfigError(
            [
                "--calibrate: the sweep runs on a Ray cluster: calibrate on one of its machines, with "
                "cluster.profile=local"
            ]
        )
    _check_is_here(sweep.config.cluster, machine)
    if sweep.config.budget.trials == "auto":
        sweep = auto_trials.with_some(sweep)
    devices.use_threads(machine.hosts)
    with devices.seeing_gpus(machine.gpus):
        prepared = measuring.prepare(sweep)
    if prepared.summary.shape is not None:
        # The slots of a host depend on the length of the rows.
        rates.remember(rates.file(), None, {rates.data_key(sweep.config): prepared.summary.shape})
    slots = plan_here(sweep, to_launch=True).slots_per_host or 1
    with devices.seeing_gpus(machine.gpus):
        rate = measuring.calibrate(sweep, prepared, slots, machine)
    rates.remember(rates.file(), rate, {})


def _check_is_here(cluster: ClusterConfig, machine: capacity.Machine) -> None:
    """Refuses to measure this machine's device for a plan that names another device."""
    name = machine.device_name or ""
    if cluster.gpu is not None and (machine.device == "cpu" or not rates.is_named(name, _several(cluster))):
        field, value = "cluster.gpu", cluster.gpu
    elif cluster.gpu_memory is not None and machine.device == "cpu":
        field, value = "cluster.gpu_memory", cluster.gpu_memory
    else:
        return
    raise ConfigError(
        [
            f"{field}: {value}: --calibrate measures the device of this machine, {name}: run it on a machine with that "
            f"GPU, or leave {field} out to plan for this one"
        ]
    )


def remember(config: SweepConfig, folder: SweepFolder, data: Mapping[str, Scalar], device_name: str) -> None:
    """Stores the rate and row shape of a sweep for later plans; raises OSError if the cache cannot be written.

    `data` is the summary of its rows, empty without data. `device_name` is the hosts' device by `devices.name`.
    """
    from sweeps.planning import measuring

    events, key = (event for event, _ in read_events(folder.events)), rates.rate_key(config, device_name)
    rate = None  # Hosts that change their base have no rate of one base.
    if not bases.are_searched(config):
        rate = measuring.rate_of_sweep(events, key, config.evaluation, rates.answers_key(config))
    shape = Summary.model_validate(data).shape if config.data is not None and data else None
    shapes = {} if shape is None else {rates.data_key(config): shape}
    rates.remember(rates.file(), rate, shapes)


def _choices(sweep: LoadedSweep, rows: RowShape | None) -> tuple[GpuAdvice, ...]:
    config = sweep.config
    if config.model is None or "model" not in catalogue.find(config.trainable).REQUIRES:
        return ()
    # The question is what fits, so the base stays in 4 bits, which take the least memory.
    of_gpus = {"compute_dtype": "auto", "residency": "4bit"}

    @cache  # GPUs of all sizes ask the same
    def estimate(old: bool, scheme: str, recomputes: bool) -> Need | None:
        quantization = QuantizationSpec.model_validate(config.quantization.model_dump() | of_gpus | {"scheme": scheme})
        changed = replace(sweep, config=config.model_copy(update={"quantization": quantization}))
        machine = capacity.Machine("cuda", 1, None, lacks_bfloat16=old)
        return _need(changed, machine, rows, gradient_checkpointing=recomputes)

    recomputing = config.training.gradient_checkpointing
    return choices(estimate, devices.MEMORY_SHARE, MAX_SLOTS, recomputing=recomputing)


def _check_disk(config: SweepConfig, need: Need | None) -> None:
    budget = config.budget.disk
    if budget is not None and need is not None and need.adapter_bytes > size_bytes(budget):
        raise ConfigError(
            [
                f"budget.disk: {budget!r} does not hold one adapter of {need.adapter_bytes / 1e6:.0f} MB: raise it, or "
                "lower the highest adapter.r"
            ]
        )


def _free_disk(storage: Path) -> int | None:
    """Returns the free bytes on the disk where `storage` is or will be made; None if unknown."""
    there = next((path for path in (storage, *storage.parents) if path.is_dir()), None)
    return shutil.disk_usage(there).free if there is not None else None


def machine_of(config: SweepConfig, to_launch: bool = False) -> capacity.Machine:
    """Returns the hosts for which the sweep is planned; see `plan_here` for `to_launch`."""
    machine = replace(_machine(config, to_launch), spread=config.cluster.spread)
    lacks = machine.lacks_bfloat16 or gpu_table.lack_bfloat16(_types(config.cluster, machine))
    return replace(machine, disk_bytes=_free_disk(work_folder(config.storage)), lacks_bfloat16=lacks)


def _machine(config: SweepConfig, to_launch: bool) -> capacity.Machine:
    gpu, memory, hosts = config.cluster.gpu, config.cluster.gpu_memory, config.cluster.hosts
    gpu_bytes = _gpu_bytes(gpu, memory)
    name = None if gpu is None else _several(config.cluster)
    size = _spaced(memory) if memory is not None else f"{gpu_table.memory_gb(gpu)} GB" if gpu is not None else ""
    named = size if gpu is None else gpu if gpu.endswith("GB") else f"{gpu} {size}"
    if not config.cluster.has_own_ray:
        device: Device = "cpu" if config.cluster.gpus_per_host == 0 else "cuda"
        # The number of GPUs of the cluster is known only after the sweep has joined it.
        own = "one" if config.cluster.spread == 1 else str(config.cluster.spread)
        one = f", planned with {own} of its GPUs" if hosts == "auto" and device == "cuda" else ""
        of = f" ({named})" if gpu else f" of {named}" if named else ""
        place = f"on a Ray cluster{one or (' with GPUs' if named else '')}{of}"
        return capacity.Machine(device, 1 if hosts == "auto" else hosts, gpu_bytes, place=place, device_name=name)
    if not named or to_launch:
        given = " ".join(each for each in (gpu, memory) if each is not None)
        return replace(_this_machine(config.cluster), unused=given or None)
    place = f"on a GPU of {named}, not on this machine"
    return capacity.Machine("cuda", 1 if hosts == "auto" else hosts, gpu_bytes, place=place, device_name=name)


def _several(cluster: ClusterConfig) -> str:
    """Names the GPUs of a host by `cluster.gpu`, such as "2x H100"."""
    return devices.several(cluster.spread, cluster.gpu or "GPU")


def _spaced(size: str) -> str:
    return f"{size[:-2].strip()} {size[-2:]}"


def _gpu_bytes(gpu: str | None, memory: str | None) -> int | None:
    """Returns the bytes to plan with on a GPU with this memory; without `memory`, on a GPU of this type."""
    if memory is not None:
        return _share(size_bytes(memory))
    size = gpu_table.memory_gb(gpu) if gpu is not None else None
    return None if size is None else _share(size * 10**9)


def _this_machine(cluster: ClusterConfig) -> capacity.Machine:
    gpus = devices.gpus() if cluster.gpus_per_host != 0 else 0
    if cluster.gpus_per_host != "auto" and cluster.gpus_per_host > gpus:
        raise ConfigError(
            [
                f"cluster.gpus_per_host: {cluster.gpus_per_host} asked for, but this machine has "
                f"{counted(gpus, 'GPU')}: lower it, name a Ray cluster in cluster.address, or plan for other GPUs with "
                "cluster.gpu"
            ]
        )
    device: Device = "cuda" if gpus else "cpu"
    own = devices.visible()[: cluster.spread]
    free = _share(devices.free_bytes(device, own))
    count = max(1, gpus // cluster.spread) if cluster.hosts == "auto" else cluster.hosts
    name = devices.name(device, own, hosts=count)
    threads = None if gpus else devices.threads()
    machine = capacity.Machine(device, count, free if gpus else free // count, device_name=name, threads=threads)
    return replace(machine, lacks_bfloat16=bool(gpus) and devices.lacks_bfloat16(own))


def _unseen(cluster: ClusterConfig, machine: capacity.Machine) -> list[str]:
    """Warns where a faulty driver hides this machine's GPUs, so that the sweep is planned for the CPU."""
    is_here = machine.device == "cpu" and machine.threads is not None
    why = devices.unseen_gpus() if is_here and cluster.gpus_per_host != 0 else None
    if why is None:
        return []
    return [
        f"GPUs of this machine are not used: nvidia-smi: {why}: install a driver that fits the kernel, or restart the "
        "machine; if it has none, set cluster.gpus_per_host=0"
    ]


def _share(free_bytes: int) -> int:
    return int(free_bytes * devices.MEMORY_SHARE)
