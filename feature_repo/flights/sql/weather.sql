-- One observation per airport and hour. It is taken at minute 51 or so of its hour: by the end of the hour it is out, not before.
SELECT
    time_hour AS event_timestamp,
    time_hour + INTERVAL 1 HOUR AS created_timestamp,
    origin,
    temp,
    dewp,
    humid,
    wind_dir,
    wind_speed,
    wind_gust,
    precip,
    pressure,
    visib
FROM raw_weather
