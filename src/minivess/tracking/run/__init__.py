"""One MLflow run while it is written: what it holds, and how it begins and ends."""
