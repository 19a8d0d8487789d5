"""Words in prompts for time of day, weather, place and objects; shared by prompters and generators."""

from __future__ import annotations

LIGHT_WORDS = {
    "dusk or dawn": ("dusk", "dawn", "sunset", "sunrise", "twilight", "evening", "golden"),
    "night": ("night", "nighttime", "midnight", "moonlight"),
    "day": ("day", "daylight", "daytime", "noon", "midday", "morning", "afternoon"),
}
WEATHER_WORDS = {
    "fog": ("fog", "foggy", "mist", "misty", "haze", "hazy"),
    "rain": ("rain", "rainy", "raining", "storm", "stormy", "wet", "drizzle", "shower"),
    "snow": ("snow", "snowy", "snowing", "winter", "wintry", "blizzard", "snowfall"),
    "overcast": ("overcast", "cloudy", "clouds", "grey", "gray"),
    "clear": ("clear", "sunny", "sun", "sunshine"),
}
LAYOUT_WORDS = {
    "highway": ("highway", "motorway", "freeway", "expressway"),
    "suburb": ("suburb", "suburban", "residential", "neighborhood", "neighbourhood"),
    "village": ("village", "hamlet"),
    "country": ("country", "countryside", "rural", "farm", "forest", "mountain"),
    "city": ("city", "downtown", "urban", "town", "avenue", "boulevard", "square", "intersection", "crossroads"),
}
# Singular and plural words.
OBJECT_WORDS = {
    "car": (("car", "vehicle", "taxi"), ("cars", "vehicles", "taxis", "traffic")),
    "truck": (("truck", "lorry"), ("trucks", "lorries")),
    "bus": (("bus", "coach"), ("buses", "coaches")),
    "train": (("train", "tram", "streetcar"), ("trains", "trams", "streetcars")),
    "motorcycle": (("motorcycle", "motorbike"), ("motorcycles", "motorbikes")),
    "person": (("person", "pedestrian"), ("persons", "people", "pedestrians", "crowd")),
    "rider": (("rider", "cyclist"), ("riders", "cyclists")),
    "bicycle": (("bicycle", "bike"), ("bicycles", "bikes")),
    "tree": (("tree", "bush"), ("trees", "bushes", "vegetation", "park")),
    "pole": (("pole", "lamp", "streetlight"), ("poles", "lamps", "streetlights")),
    "traffic light": (("traffic light",), ("traffic lights",)),
    "traffic sign": (("traffic sign", "stop sign", "road sign"), ("traffic signs", "stop signs", "road signs")),
}
