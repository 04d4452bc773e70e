-- @description  The newest and the first order that were not refunded, and the days between orders.
-- @owner        bench
SELECT
    customer_id,
    (date_part('epoch', $as_of) - date_part('epoch', max(ordered_at))) / 86400.0 AS recency_days,  -- days since the newest order
    first_value(amount ORDER BY ordered_at) AS first_order_amount,                                 -- amount of the first order
    last_value(amount ORDER BY ordered_at)  AS last_order_amount,                                  -- amount of the newest order
    mean_gap_days(ordered_at)               AS gap_mean_days,                                      -- mean days between consecutive orders
    stddev_gap_days(ordered_at)             AS gap_std_days                                        -- their standard deviation, of a sample
FROM orders
WHERE NOT refunded
GROUP BY customer_id
