"""From a plan to a pipeline, and from an image to a prediction."""
