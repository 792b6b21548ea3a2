"""Why a model says what it says: maps of what mattered, layer by layer, and whether the map can be believed."""
