-- One prediction per flight, asked for an hour before it is to leave. Cancelled and diverted flights have no label.
SELECT
    scheduled_departure - INTERVAL 60 MINUTES AS event_timestamp,
    flight_id,
    carrier,
    tailnum,
    origin,
    dest,
    route,
    origin_carrier,
    scheduled_departure,
    scheduled_arrival,
    distance,
    CAST(arr_delay > 15 AS INT) AS late,
    arrived_at AS known_at
FROM flights
