"""Vessels in numbers: length, calibre, branching and shape of the vessels of a mask."""
