"""People's decisions about flagged volumes: asked for, kept, applied, shown on pages."""
