SELECT
    request,
    asked,
    asked AS wanted_at,
    station,
    rider_class,
    party,
    CAST(turned_away AS INT) AS turned_away,
    settled
FROM raw_requests
