SELECT station, seen, free_bikes, charge FROM raw_docks
