"""How peers that cannot be dialled are reached: what gateways say, checks, and a relay."""
