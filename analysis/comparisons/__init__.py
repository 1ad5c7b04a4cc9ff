"""Compares methods: leaderboards, differences to plain training, average ranks, Pareto fronts, a paper's values.

Tables and figures show these results.
"""
