"""Volumes measured, checked and shown, and the dataset summed up."""
