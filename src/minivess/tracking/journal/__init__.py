"""A run's operations kept in files until the MLflow store has taken them."""
