"""How trials are stopped early: one module per scheduler, each with a `Config`."""
