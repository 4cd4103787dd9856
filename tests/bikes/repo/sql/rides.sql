-- A ride belongs to the moment it began and is heard of when it has ended.
SELECT ride, station, rider_class, began, ended AS reported, kilometres FROM raw_rides
