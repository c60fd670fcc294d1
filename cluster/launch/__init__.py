"""Files that start a cluster or an MLflow server, and what runs on their nodes; docs/cluster.md says how."""
