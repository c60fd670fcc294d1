"""Looks at the machines of a sweep before it starts, for `qsweep doctor`; `qsweep launch` looks at MLflow with it.

`contract` defines a check and its answer. `machine`, `stores`, `gpus` and `training` have the functions that look, each
from a site to an answer. `examine` lists and runs them, here or on a cluster, whose nodes `on_cluster` reaches by Ray.
"""
