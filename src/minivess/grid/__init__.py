"""The grid of trainings: configurations x folds, each fold run trained here or elsewhere."""
