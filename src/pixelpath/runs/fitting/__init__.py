"""From images and a budget of time to a generator: what `pixelpath fit` decides, and does."""
