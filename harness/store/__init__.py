"""What a run leaves on the disk: its folder, checkpoint, progress and outcome, and who works on it.

Every file is written whole or not at all.
"""
