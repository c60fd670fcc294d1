"""Memory of a host on any kind of device, for machines that are looked at before a sweep starts."""

from __future__ import annotations

from cluster import devices
from sweeps.config.load import Sweep
from sweeps.planning import plan, rate_store
from trainables import catalogue
from trainables.contract import Device


def with_one_slot(sweep: Sweep, gpus: int) -> dict[Device, int]:
    """Estimated bytes of a host with the base and one adapter, by device; without those that are not known.

    Of a host of several GPUs, those on the fullest of its `gpus`.

    Raises:
        NotTrainable: the trainable's estimate breaks.
    """
    config = sweep.config
    trainable = catalogue.find(config.trainable)
    largest = plan.largest(config, sweep.space)
    shape = rate_store.read(rate_store.place(devices.cache())).shape(config)
    found: dict[Device, int] = {}
    kinds: tuple[Device, ...] = ("cpu", "cuda")
    for device in kinds:
        need = catalogue.need(trainable, config.base, largest, device, shape, gpus)
        if need is not None:
            found[device] = need.total(1)
    return found
