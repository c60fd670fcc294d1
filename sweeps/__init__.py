"""The sweep: configuration, plan, Ray Tune run, tracking and command line. Composes the other packages."""
