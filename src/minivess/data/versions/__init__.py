"""Curated copies of volumes under DVC, and where their originals lie."""
