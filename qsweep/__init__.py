"""Hyperparameter sweeps for LoRA and QLoRA, from Python: `import qsweep as qs` (docs/python.md).

These names are for users. All else in this project may change with any version.
"""

from qsweep._compared import Compared, compare
from qsweep._launching import launch, load, plan, resume, validate
from qsweep._space import choice, grid, loguniform, qloguniform, qrandint, quniform, randint, uniform
from qsweep._sweep import Sweep
from qsweep._trials import Trial
from trainables.errors import QsweepError

__all__ = [
    "Compared",
    "QsweepError",
    "Sweep",
    "Trial",
    "choice",
    "compare",
    "grid",
    "launch",
    "load",
    "loguniform",
    "plan",
    "qloguniform",
    "qrandint",
    "quniform",
    "randint",
    "resume",
    "uniform",
    "validate",
]
