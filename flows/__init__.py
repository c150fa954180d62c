"""The Prefect flows that deployments/prefect.yaml registers, one file each.

Parameters are what the command line takes: `settings` are key=value words, `files` are YAML files,
`upstream` are run ids. Each flow returns the ids of what it made.
"""
