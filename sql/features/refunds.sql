-- @description  Orders that were sent back and paid back.
-- @owner        service
-- @windows      90d 365d lifetime
SELECT
    customer_id,
    count(*)    AS refunds,                -- orders that were paid back
    sum(amount) AS refunded_amount         -- money that was paid back
FROM orders
WHERE refunded
GROUP BY customer_id
