"""Train an image generator on your own images or arrays, in pixel space."""
