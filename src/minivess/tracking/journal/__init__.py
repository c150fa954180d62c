"""Journals: a run's operations in files until they are stored in MLflow."""
