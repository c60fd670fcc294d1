"""Looks at the machines of a sweep before it starts: `qsweep doctor`.

A check is one file of `checks/`, found by its name. Its `look` collects facts on a machine, in a process of its own
with a time limit; its `judge` is pure and turns the facts into a diagnosis, with what to do where something is wrong.
"""
