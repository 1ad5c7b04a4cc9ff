"""What a run costs: counted while it trains, and expected from what its method says of itself.

Runs and evaluation count with it, plans estimate with it.
"""
