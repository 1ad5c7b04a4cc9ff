"""The harness: from a study's YAML file to tracked runs.

Rooms lie on floors, and import downwards only: `cli` is the top one, `cache` the lowest.
"""
