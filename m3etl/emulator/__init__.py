"""The embedded Earth Engine: a loopback server that the unmodified earthengine-api client can talk to."""
