"""Loads tracked runs into data frames: one row per run, with its metrics, arrays and provenance.

Only this package reads MLflow.
"""
