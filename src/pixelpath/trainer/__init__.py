"""Training: how a run proceeds, and what it leaves on the disk."""
