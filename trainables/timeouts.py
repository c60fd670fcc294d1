"""The seconds that pace or bound something in this package. No variable and no key of a sweep file sets one."""

HUB = 5.0
"""For one answer of the hub, before a sweep starts: a launch tells within seconds that the hub cannot be reached."""
SELF_TEST_LOAD = 1800.0
"""For the process of the self-test to load a base, which may lie on a network drive, and to compute the reference."""
SELF_TEST_PATH = 300.0
"""For one path to be compared and timed: by estimate 10 s for 8 billion parameters on an H100. One that hangs never
answers."""
KILLED_PROCESS = 5.0
"""For a killed process to end. One that waits for a dead network drive does not end at all."""
BFLOAT16_PROBE = 0.05
"""For products in float32 and bfloat16 on a CPU: so many repeats that other processes hardly matter, and still no
delay that a start would show."""
