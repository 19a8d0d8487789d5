"""The demo: the whole CLOUDS method on drawn street scenes, in minutes on a CPU."""
