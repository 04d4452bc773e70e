-- @description  What a customer does in the 90 days from as_of on. A customer without a row there has left.
-- @owner        growth
-- @horizon      90d
-- @default      churned_90d 1
-- @default      spend_90d 0
SELECT
    customer_id,
    CASE WHEN count(*) > 0 THEN 0.0 ELSE 1.0 END AS churned_90d,  -- 1 when no paid order falls in the 90 days
    sum(amount)                                  AS spend_90d     -- money spent in the 90 days, net of refunds
FROM orders
WHERE NOT refunded
GROUP BY customer_id
