"""How much of a host each tenant may take: requests a second, and requests under way."""
