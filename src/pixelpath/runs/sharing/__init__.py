"""How a run leaves pixelpath and how others come in: exports, the Hub, bundled models, published checkpoints."""
