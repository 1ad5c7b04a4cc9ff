"""What methods are made of: the interface `Method`, wrappers, recipes, random streams, trunks, BatchNorm.

Every method imports from here; nothing here imports a method.
"""
