-- An arrival is known the moment it happens; a diverted flight has none.
SELECT
    arrived_at AS event_timestamp,
    arrived_at AS created_timestamp,
    flight_id,
    carrier,
    tailnum,
    origin,
    dest,
    route,
    origin_carrier,
    arr_delay,
    CAST(arr_delay > 15 AS DOUBLE) AS arr_late
FROM flights
WHERE arr_delay IS NOT NULL
