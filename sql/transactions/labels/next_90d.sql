-- @description  What a customer does in the 90 days from as_of on. A customer without a row there has left.
-- @owner        growth
-- @horizon      90d
-- @default      churned_90d 1
-- @default      spend_90d 0
SELECT
    customer_id,
    CASE WHEN max(amount) > 0 THEN 0.0 ELSE 1.0 END AS churned_90d,  -- 1 when no purchase falls in the 90 days
    greatest(sum(amount), 0.0)                      AS spend_90d     -- money spent in the 90 days less returns, at least 0
FROM orders
GROUP BY customer_id
