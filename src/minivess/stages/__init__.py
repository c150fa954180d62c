"""The four stages and what surrounds them, each told as one story from top to bottom."""
