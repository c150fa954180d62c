"""People's decisions about volumes, kept and applied."""
