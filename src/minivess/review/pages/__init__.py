"""Volumes and their dataset shown to people and to other tools; decides nothing."""
