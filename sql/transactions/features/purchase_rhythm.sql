-- @description  When purchases happened and how much they vary.
-- @owner        growth
SELECT
    customer_id,
    (date_part('epoch', $as_of) - date_part('epoch', max(ordered_at))) / 86400.0 AS days_since_last_purchase,   -- days since the newest purchase
    (date_part('epoch', $as_of) - date_part('epoch', min(ordered_at))) / 86400.0 AS days_since_first_purchase,  -- days since the first purchase
    first_value(amount ORDER BY ordered_at, order_id) AS first_purchase,                                        -- amount of the first purchase
    last_value(amount ORDER BY ordered_at, order_id)  AS last_purchase,                                         -- amount of the newest purchase
    stddev(amount)                                    AS purchase_spread,                                       -- standard deviation of a purchase's amount
    avg(items)                                        AS items_per_purchase                                     -- mean pieces in a purchase
FROM orders
WHERE amount > 0
GROUP BY customer_id
