-- @description  Money spent, returns taken off.
-- @owner        growth
-- @windows      7d 30d 60d 90d 180d lifetime
SELECT
    customer_id,
    sum(amount) AS spend                   -- money of purchases less that of returns
FROM orders
GROUP BY customer_id
