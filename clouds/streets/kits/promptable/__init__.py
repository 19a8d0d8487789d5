"""What a prompt can reach: layouts, palettes, textures, lights, weathers and sensors of the procedural generator."""
