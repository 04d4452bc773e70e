-- @description  Paid orders and what was spent on them, net of refunds.
-- @owner        growth
-- @windows      7d 30d 90d 180d 365d lifetime
SELECT
    customer_id,
    count(*)      AS orders,               -- paid orders
    sum(amount)   AS spend,                -- money spent, after discounts, in the shop's currency
    avg(amount)   AS average_order,        -- mean amount of a paid order
    max(amount)   AS largest_order,        -- amount of the largest paid order
    sum(items)    AS items,                -- pieces bought
    sum(discount) AS discount              -- money that discounts took off
FROM orders
WHERE NOT refunded
GROUP BY customer_id
