"""Which image belongs to which label, read from names, lists and folders."""
