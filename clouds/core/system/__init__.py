"""The machine: files, images, progress, processes, memory, configuration files. Imports nothing else of `clouds`."""
