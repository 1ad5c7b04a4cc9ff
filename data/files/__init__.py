"""Files: downloads with checksums, archives, and decoding of images in worker processes.

Datasets and batches read their files with these modules.
"""
