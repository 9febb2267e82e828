"""How others plug in: engines, sources of carbon intensity, meters of energy."""
