-- @description  When and with what a customer last visited.
-- @owner        web
SELECT
    customer_id,
    (date_part('epoch', $as_of) - date_part('epoch', max(occurred_at))) / 86400.0 AS days_since_last_visit,  -- days since the newest event
    last_value(device ORDER BY occurred_at, kind, seconds) AS last_device                                    -- device of the newest event
FROM events
GROUP BY customer_id
