-- A departure is known the moment it happens.
SELECT
    departed_at AS event_timestamp,
    departed_at AS created_timestamp,
    flight_id,
    carrier,
    tailnum,
    origin,
    dest,
    route,
    origin_carrier,
    dep_delay,
    CAST(dep_delay > 15 AS DOUBLE) AS dep_late
FROM flights
WHERE dep_delay IS NOT NULL
