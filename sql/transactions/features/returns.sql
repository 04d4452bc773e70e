-- @description  Returns and cancellations: orders with a negative sum.
-- @owner        service
-- @windows      90d lifetime
SELECT
    customer_id,
    count(*)     AS returns,               -- returns and cancellations
    sum(-amount) AS returned               -- money given back
FROM orders
WHERE amount < 0
GROUP BY customer_id
