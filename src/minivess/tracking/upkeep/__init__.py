"""Stored runs inspected, completed, compared, moved and removed."""
