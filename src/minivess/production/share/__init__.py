"""A folder to hand on: an analysis with all that a reader asks for, without any server."""

from minivess.production.share.folder import share

__all__ = ["share"]
