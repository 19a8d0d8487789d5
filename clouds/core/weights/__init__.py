"""Published weights and weight files: where they are, how they are fetched, verified and read."""
