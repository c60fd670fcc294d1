"""Plans of sweeps: trials, slots, memory, time and cost, before anything is spent."""
