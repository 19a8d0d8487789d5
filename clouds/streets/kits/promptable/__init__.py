"""The kit of prompts: layouts, palettes, textures, lights, weathers and sensors of the procedural generator."""
