-- @description  Purchases: orders with a positive sum.
-- @owner        growth
-- @windows      7d 30d 60d 90d 180d lifetime
SELECT
    customer_id,
    count(*)    AS purchases,              -- purchases
    avg(amount) AS average_purchase,       -- mean amount of a purchase
    max(amount) AS largest_purchase        -- amount of the largest purchase
FROM orders
WHERE amount > 0
GROUP BY customer_id
