"""m3etl: aligned multi-modal Earth-observation data sets from Earth Engine, and models pretrained on them."""

__version__ = "0.1.0"
