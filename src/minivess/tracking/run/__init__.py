"""One MLflow run while it is written: begin, values, files, end."""
