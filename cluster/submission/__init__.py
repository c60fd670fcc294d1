"""How a sweep gets to a cluster from a machine that is not part of it: a job of Ray's, with code and files."""
