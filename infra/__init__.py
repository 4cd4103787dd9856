"""Where it all runs: settings, local services, ports, processes. Every folder may import it; it imports none of them."""
