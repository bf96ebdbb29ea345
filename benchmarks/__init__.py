"""Speed measurements behind `tesseral bench`."""
