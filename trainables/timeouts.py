"""Time limits of this package, in seconds. No environment variable and no key of a sweep file sets one."""

HUB = 5.0
"""Limit for one answer of the hub before a sweep starts, so that a launch soon tells that the hub is out of reach."""
SELF_TEST_LOAD = 1800.0
"""Limit for the self-test's process to load a base, perhaps from a network drive, and to compute the reference."""
SELF_TEST_PATH = 300.0
"""Limit to compare and time one path. A path takes an estimated 10 s for 8 billion parameters on an H100, or hangs."""
FIRST_CALL = 60.0
"""Limit for a user's function to score one row before a sweep starts, with the imports of its module."""
EQUAL_ANSWERS = 5
"""Limit to tell whether two mathematical answers are equal. An answer that takes longer is wrong."""
KILLED_PROCESS = 5.0
"""Limit for a killed process to end. A process that waits for a dead network drive never ends."""
BFLOAT16_PROBE = 0.05
"""Time for products in float32 and bfloat16 on a CPU: enough repeats that other processes hardly matter, and no delay
that a user would notice at a start."""
