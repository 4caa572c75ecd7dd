"""The studio: a page on this machine to look at runs, make images with them, edit these, and watch training."""
