-- @description  What a customer does in the 30 days from as_of on. A customer without a row there has left.
-- @owner        growth
-- @horizon      30d
-- @default      churned_30d 1
-- @default      spend_30d 0
SELECT
    customer_id,
    CASE WHEN count(*) > 0 THEN 0.0 ELSE 1.0 END AS churned_30d,  -- 1 when no paid order falls in the 30 days
    sum(amount)                                  AS spend_30d     -- money spent in the 30 days, net of refunds
FROM orders
WHERE NOT refunded
GROUP BY customer_id
