"""Looks at the machines of a sweep before it starts: `qsweep doctor`. Nothing but the command line imports this room.

`contract` says what a check is; `machine`, `gpus` and `stores` hold the checks; `looking` runs them on one machine,
`examine` on this machine or a whole cluster, whose nodes `on_cluster` reaches through Ray.
"""
