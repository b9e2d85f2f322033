"""How much of what identifies people a site's de-identification finds: measured, and kept."""
