"""The model in production: predict, serve, promote, roll back, compare, watch for drift."""
