"""Demo volumes with exact labels."""
