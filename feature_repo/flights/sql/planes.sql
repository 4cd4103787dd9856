-- The register as it stood at the beginning of the year.
SELECT
    TIMESTAMP '2013-01-01 00:00:00' AS event_timestamp,
    tailnum,
    CAST(year AS BIGINT) AS year,
    CAST(seats AS BIGINT) AS seats
FROM raw_planes
