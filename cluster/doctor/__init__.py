"""Looks at the machines of a sweep before it starts, for `qsweep doctor`; `qsweep launch` looks at MLflow with it.

`contract` defines a check. `machine`, `gpus`, `stores` and `training` hold the checks. `looking` runs them on one
machine, `examine` on this machine or a whole cluster, whose nodes `on_cluster` reaches through Ray.
"""
