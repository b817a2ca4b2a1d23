"""The dock widget that uses a trained model: segments, scores and measures."""
