"""Writes sweeps to MLflow and reads them. No other package imports mlflow."""
