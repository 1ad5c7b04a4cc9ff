"""Evaluates methods: metrics, OOD detection, calibration, and the loss landscape around their networks.

A run calls it once its method is prepared, and after each epoch if requested.
"""
