"""MLflow: the only place that imports it. Events in, runs out."""
