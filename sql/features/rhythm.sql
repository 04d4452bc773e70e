-- @description  How regularly a customer buys, from the dates of the paid orders.
-- @owner        growth
SELECT
    customer_id,
    (date_part('epoch', $as_of) - date_part('epoch', max(ordered_at))) / 86400.0 AS days_since_last_order,   -- days since the newest paid order
    (date_part('epoch', $as_of) - date_part('epoch', min(ordered_at))) / 86400.0 AS days_since_first_order,  -- days since the oldest paid order
    (date_part('epoch', max(ordered_at)) - date_part('epoch', min(ordered_at))) / 86400.0
        / nullif(count(*) - 1, 0) AS order_gap_days,                                                         -- mean days between two paid orders
    stddev(amount) AS order_amount_spread,                                                                   -- standard deviation of the amount of an order
    last_value(amount ORDER BY ordered_at, order_id) AS last_order_amount,                                   -- amount of the newest paid order
    last_value(category ORDER BY ordered_at, order_id) AS last_category,                                     -- category of the newest paid order
    count(DISTINCT category) AS categories                                                                   -- categories bought from
FROM paid_orders
GROUP BY customer_id
