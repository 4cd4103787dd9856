-- One row per flight, every moment as an instant in UTC. The history the other tables are cut from; no feature reads it.
-- Arrival times are local to the destination, whose zone the airports table knows but for Puerto Rico's and the Virgin Islands' fields.
-- They name no date: an arrival that would lie before the departure is the next day's. 2400 is midnight at the end of the day.
WITH zoned AS (
    SELECT
        f.*,
        f.time_hour + make_dt_interval(0, 0, f.minute) AS scheduled_departure,
        to_utc_timestamp(
            CAST(make_date(f.year, f.month, f.day) AS TIMESTAMP)
                + make_dt_interval(0, f.sched_arr_time DIV 100, f.sched_arr_time % 100),
            coalesce(
                a.tzone,
                CASE WHEN f.dest IN ('SJU', 'BQN', 'PSE') THEN 'America/Puerto_Rico' WHEN f.dest = 'STT' THEN 'America/St_Thomas' END
            )
        ) AS same_day_arrival
    FROM raw_flights f LEFT JOIN raw_airports a ON a.faa = f.dest
),
scheduled AS (
    SELECT
        *,
        CASE WHEN same_day_arrival <= scheduled_departure THEN same_day_arrival + INTERVAL 1 DAY ELSE same_day_arrival END AS scheduled_arrival
    FROM zoned
)
SELECT
    scheduled_departure,
    scheduled_arrival,
    concat_ws('-', date_format(scheduled_departure, 'yyyyMMdd''T''HHmm'), carrier, flight) AS flight_id,
    carrier,
    flight,
    tailnum,
    origin,
    dest,
    concat(origin, '-', dest) AS route,
    concat(origin, '-', carrier) AS origin_carrier,
    distance,
    scheduled_departure + make_dt_interval(0, 0, CAST(dep_delay AS INT)) AS departed_at,
    scheduled_arrival + make_dt_interval(0, 0, CAST(arr_delay AS INT)) AS arrived_at,
    dep_delay,
    arr_delay
FROM scheduled
