"""Counts the cost of runs while they train, and estimates it beforehand from the method's declaration.

Runs and evaluation count costs; plans and tuning use the estimates.
"""
