"""The MLflow store: experiments, runs, artifacts and models read back."""
