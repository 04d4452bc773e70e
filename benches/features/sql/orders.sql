-- @description  Orders that were not refunded.
-- @owner        bench
-- @windows      7d 30d 90d 180d 365d lifetime
SELECT
    customer_id,
    count(*)                  AS orders,      -- orders
    sum(amount)               AS amount_sum,  -- their amounts
    avg(amount)               AS amount_avg,  -- mean amount of an order
    max(amount)               AS amount_max,  -- amount of the largest order
    sum(items)                AS items,       -- pieces bought
    count(DISTINCT category)  AS categories   -- categories bought from
FROM orders
WHERE NOT refunded
GROUP BY customer_id
