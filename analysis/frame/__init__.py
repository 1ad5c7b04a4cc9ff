"""The frame: one row a tracked run, its arrays and provenance, and what its columns mean.

Only this room reads MLflow.
"""
