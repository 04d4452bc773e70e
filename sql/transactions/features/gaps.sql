-- @description  Days between purchases; several purchases on one day count as one.
-- @owner        growth
SELECT
    customer_id,
    CAST(count(*) AS DOUBLE)       AS active_days,    -- days with a purchase
    avg(gap)                       AS gap_mean_days,  -- mean days between two purchases
    stddev(gap)                    AS gap_spread,     -- standard deviation of those days
    max(gap)                       AS gap_max_days,   -- longest pause between two purchases
    last_value(gap ORDER BY day)   AS gap_last_days   -- days between the last two purchases
FROM (
    SELECT
        customer_id,
        day,
        (date_part('epoch', day) - date_part('epoch', lag(day) OVER (PARTITION BY customer_id ORDER BY day))) / 86400.0 AS gap
    FROM (
        SELECT customer_id, date_trunc('day', ordered_at) AS day
        FROM orders
        WHERE amount > 0
        GROUP BY customer_id, date_trunc('day', ordered_at)
    ) AS days
) AS gaps
GROUP BY customer_id
