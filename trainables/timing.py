"""The seconds that pace or bound something in this package. No variable and no key of a sweep file sets one."""

HUB = 5.0
"""For one answer of the hub, before a sweep starts: a launch tells within seconds that the hub cannot be reached."""
BFLOAT16_PROBE = 0.05
"""For products in float32 and bfloat16 on a CPU: so many repeats that other processes hardly matter, and still no
delay that a start would show."""
