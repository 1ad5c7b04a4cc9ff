"""Files: downloads with checksums, archives, and decoding of images in processes of their own.

Datasets and batches read through it.
"""
