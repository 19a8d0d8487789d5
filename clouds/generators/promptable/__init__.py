"""What a prompt can reach: the layouts, palettes, textures, lights, weathers and sensors of the procedural generator."""
