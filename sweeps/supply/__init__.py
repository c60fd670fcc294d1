"""Which trials a sweep has: what is handed out next, what may be asked for, what an earlier sweep says. Pure."""
