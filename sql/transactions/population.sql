-- @description  Everyone who bought something before as_of.
-- @owner        growth
SELECT customer_id
FROM orders
WHERE amount > 0
GROUP BY customer_id
