-- @description  What a customer does in the 273 days from as_of on. A customer without a row there has left.
-- @owner        growth
-- @horizon      273d
-- @default      churned_273d 1
-- @default      spend_273d 0
SELECT
    customer_id,
    CASE WHEN max(amount) > 0 THEN 0.0 ELSE 1.0 END AS churned_273d,  -- 1 when no purchase falls in the 273 days
    greatest(sum(amount), 0.0)                      AS spend_273d     -- money spent in the 273 days less returns, at least 0
FROM orders
GROUP BY customer_id
