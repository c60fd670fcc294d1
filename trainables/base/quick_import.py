"""Imports bitsandbytes without a compiler that nothing here uses: 2 of the 7 seconds that a host's imports take."""

from __future__ import annotations

import os

SWITCH = "TORCHDYNAMO_DISABLE"


def import_bitsandbytes() -> None:
    """Imports bitsandbytes. Call it before other libraries do.

    bitsandbytes 0.50.2 wraps four functions in torch.compile when it is imported (backends/default/ops.py), which
    imports all of torch's compiler. They are fallbacks for devices without kernels of their own, and optimizers, and
    run uncompiled now. torch reads the switch when a function is wrapped (_dynamo/eval_frame.py, 2.13), so
    torch.compile works as ever afterwards.
    """
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        import bitsandbytes  # noqa: F401
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before
