"""Predictions of folders, datasets and videos as files: formats, resume, broken images, engines."""
