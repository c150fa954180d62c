"""A run trained again from its own record, and portable bundles."""
