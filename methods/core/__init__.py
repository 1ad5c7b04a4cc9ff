"""What methods are made of: the interface `Method`, wrappers, recipes, streams of randomness, trunks, BatchNorm.

Methods ask it; it knows none of them.
"""
