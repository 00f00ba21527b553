"""Driver 2: virtual time. The cores that decide in production, on a network that is made up."""
