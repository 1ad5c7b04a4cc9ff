"""What may be said of runs: ranking, differences to plain training, ranks, Pareto fronts, a paper's values beside ours.

Tables and figures show what is computed here.
"""
