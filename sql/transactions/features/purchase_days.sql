-- @description  What a day with purchases is worth.
-- @owner        growth
SELECT
    customer_id,
    sum(amount) / count(DISTINCT date_trunc('day', ordered_at)) AS spend_per_active_day  -- mean amount of a day with a purchase
FROM orders
WHERE amount > 0
GROUP BY customer_id
